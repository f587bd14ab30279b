"""Claiming a run directory, by the protocol of `claim`, for all ranks of a training."""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.track.processes import Place, read_holder, this_place
from trainer.training.opening.claim import CLAIM, DRAFT, STALE_S, Claim, holding

if TYPE_CHECKING:
    from trainer.distributed import World

#: Seconds that one `Claimant.attempt` takes at most, because the other ranks wait for it.
LOOK_S = 5.0
#: Seconds between two looks at a claim.
PAUSE_S = 0.5
#: How often another process may take a free directory first and be gone at the next look.
MOST_LOST = 50

log = logging.getLogger(__name__)


class Claimant:
    """A process that tries to claim a run directory, and finds out who holds it. Rank 0."""

    def __init__(
        self,
        *,
        here: Place | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make a claimant that holds no claim yet."""
        self._here, self._clock, self._pause = here or this_place(), clock, pause
        self._made: list[Path] = []
        self._watched: tuple[str, int] | None = None
        self._watched_since, self._n_lost = 0.0, 0
        self.claim: Claim | None = None

    def make(self, candidates: Iterable[Path], *, must_be_new: bool) -> Path:
        """Make the first of `candidates` that can be made, and return it.

        Unless `must_be_new`, a directory that exists is returned as well.

        Raises:
            InputError: a file is in the way, or the directory cannot be made.
        """
        for path in candidates:
            try:
                self._make(path, must_be_new=must_be_new)
                return path
            except FileExistsError:
                if not must_be_new:
                    raise InputError(f"--run-dir {path} is a file: give another") from None
            except OSError as error:
                raise InputError(f"--run-dir {path} cannot be made: {error.strerror}") from None
        raise InputError("no name is free for a run directory: give one with --run-dir")

    def attempt(self, run_dir: Path) -> bool:
        """Claim the directory if it is free or its holder is gone; take `LOOK_S` at most.

        Returns:
            Whether it was claimed. If not, too little is known of its holder yet: try again.

        Raises:
            InputError: a living process holds the directory, or it cannot be claimed.
        """
        until = self._clock() + LOOK_S
        try:
            while self._clock() < until:
                name = holding(run_dir / CLAIM)
                if name is None:
                    if self._take(run_dir):
                        return True
                elif self._is_gone(run_dir / CLAIM / name):
                    (run_dir / CLAIM / name).unlink(missing_ok=True)
                    continue
                self._pause(PAUSE_S)
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
            raise InputError(f"--run-dir {run_dir} cannot be claimed: {reason}") from None
        return False

    def look(self, run_dir: Path) -> None:
        """Raise what `attempt` raises if a living process holds the directory; claim nothing."""
        name = holding(run_dir / CLAIM)
        if name is not None:
            self._is_gone(run_dir / CLAIM / name)

    def _make(self, path: Path, *, must_be_new: bool) -> None:
        """Make a folder and its parents, and note for `release` which ones were made.

        Raises:
            FileExistsError: the folder exists but `must_be_new`, or something else is there.
        """
        for folder in (*reversed(path.parents), path):
            is_wanted_new = must_be_new and folder == path
            if folder.is_dir() and not is_wanted_new:
                continue
            try:
                folder.mkdir()
            except FileExistsError:  # another process was first
                if is_wanted_new or not folder.is_dir():
                    raise
            else:
                self._made.append(folder)

    def _take(self, run_dir: Path) -> bool:
        self._make(run_dir, must_be_new=False)  # a refused claimant may have removed it
        claim = Claim(run_dir, here=self._here)
        if not claim.take():
            self._n_lost += 1
            if self._n_lost == MOST_LOST:
                raise InputError(
                    f"--run-dir {run_dir} cannot be claimed: {CLAIM} cannot be made there"
                )
            return False
        self.claim = claim
        for left in run_dir.glob(f"{DRAFT}*"):
            shutil.rmtree(left, ignore_errors=True)  # a living claimant makes a new one
        return True

    def _is_gone(self, file: Path) -> bool:
        """Return whether the holder is gone; False while this is not known yet.

        Raises:
            InputError: the holder lives.
        """
        run_dir = file.parent.parent
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            holder = read_holder(file)
            lives = None if holder is None else holder.lives(descriptor, self._here)
            seen = file.name, os.fstat(descriptor).st_mtime_ns
        finally:
            os.close(descriptor)
        now, before = self._clock(), self._watched
        if lives is None and before is not None and before[0] == seen[0] and before != seen:
            lives = True
        if lives:
            raise InputError(
                f"{run_dir} is being trained by {holder or 'a process that it does not name'}: "
                f"wait for its end, stop it with `touch {run_dir}/STOP`, or give another --run-dir"
            )
        if lives is None and before != seen:
            self._watched, self._watched_since = seen, now
            log.warning(
                "%s is claimed by %s: looking for a sign of life for %.0f s",
                run_dir,
                holder or "a process that it does not name",
                STALE_S,
            )
        return lives is False or now - self._watched_since >= STALE_S

    def release(self) -> None:
        """Release the claim, and remove the folders that were made for it and are still empty."""
        if self.claim is not None:
            self.claim.release()
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        self._made.clear()


@contextlib.contextmanager
def claimed(
    candidates: Iterable[Path],
    *,
    must_be_new: bool,
    world: "World",
    on_lost: Callable[[str], None],
) -> Iterator[Path]:
    """Claim the first of `candidates` that can be made, for all ranks, until the block ends.

    Args:
        candidates: run directories.
        must_be_new: whether to pass over directories that exist already.
        world: this process among its peers; rank 0 claims.
        on_lost: see `Claim.keep`.

    Yields:
        The claimed directory, which exists.

    Raises:
        InputError: on every rank; another process holds the directory, or it cannot be made or
            claimed.
    """
    from trainer.distributed import on_main  # imports torch, which a claimant can do without

    claimant = Claimant()
    try:
        run_dir = on_main(lambda: claimant.make(candidates, must_be_new=must_be_new), world)
        while not on_main(lambda: claimant.attempt(run_dir), world):
            pass  # short attempts: the other ranks' collective must not time out
        if claimant.claim is not None:
            claimant.claim.keep(on_lost=on_lost)
        yield run_dir
    finally:
        claimant.release()
