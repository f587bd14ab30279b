"""Claims on run directories: one training at a time holds one, until its process is gone.

The process that trains in RUN, the holder, keeps the file ``RUN/claim/NONCE.json``; no other claim
ever has the same name. The file names host and process, and a thread of the holder touches it every
`BEAT_S` seconds.

- **Taking.** A claimant makes a folder of its own with its file inside, and renames the folder to
  ``claim``. The rename fails if ``claim`` holds a file. So one of any number of claimants succeeds,
  on every file system and without a lock.
- **Leaving.** The holder removes its file, then the folder. An empty folder is free.
- **Taking over.** A claimant that finds the holder gone removes the holder's file, and takes the
  empty folder. A slow claimant cannot remove a newer claim by mistake: that has another name.
- **Finding the holder gone.** On the holder's machine the kernel says whether the process runs,
  even if its number was reused. In another container there, a lock on the file (`flock`) says so,
  where the file system has locks. Elsewhere the claimant watches the file's time of change, which
  the file server sets: a change within `STALE_S` seconds of the claimant's own clock means that the
  holder lives. So the clocks of two machines are never compared, and nobody relies on a lock that a
  file server keeps for a lost machine, or for one machine alone.
- **Losing.** A holder may be stopped for so long that another takes over. When it wakes it finds
  its file gone, and leaves without writing. It also leaves when the directory was moved or deleted,
  since its paths lead elsewhere. A claim that was removed by hand is made again.

This module does what a holder does; `trainer.training.opening.claimant` takes and takes over.
"""

import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from trainer.errors import InputError
from trainer.outside import printable
from trainer.track.processes import Holder, Place, read_holder

#: The folder in a run directory that holds the claim, and the prefix of claimants' own folders.
CLAIM, DRAFT = "claim", ".claim-"
#: Seconds between two signs of life.
BEAT_S = 5.0
#: Seconds without a sign of life after which a holder counts as gone, if only its file is known.
STALE_S = 60.0

_NAME = re.compile(r"[0-9a-f]{32}\.json")
#: Errors of a rename when another claimant was first, or has removed the draft.
_LOST_THE_RACE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT)

log = logging.getLogger(__name__)


class Claim:
    """A claim on a run directory, which this process holds once `take` has succeeded."""

    def __init__(self, run_dir: Path, *, here: Place) -> None:
        """Prepare a claim on `run_dir`, which exists, by this process, which runs `here`."""
        self._run_dir, self._here = run_dir, here
        self._folder, self._name = run_dir / CLAIM, f"{secrets.token_hex(16)}.json"
        self._identity = _identity(run_dir)
        self._descriptor, self._pid = -1, os.getpid()
        self._over, self._turn = threading.Event(), threading.Lock()
        self._was_absent = False

    def take(self) -> bool:
        """Take the directory if it is free, as in *Taking*; return whether it was taken.

        Raises:
            OSError: no claim can be written in the directory.
        """
        draft = self._run_dir / f"{DRAFT}{Path(self._name).stem}"
        try:
            draft.mkdir()
        except FileNotFoundError:
            if self._run_dir.is_dir():
                raise
            return False  # the claimant that made the directory was refused, and has removed it
        try:
            descriptor = self._write(draft)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            if error.errno not in _LOST_THE_RACE:
                raise
            return False
        self._descriptor = descriptor
        return True

    def _write(self, draft: Path) -> int:
        """Write the claim and rename it into place; return the descriptor of its open file."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(draft / self._name, flags, 0o666)
        try:
            holder = Holder.this_process(descriptor, self._here)
            os.write(descriptor, f"{holder.model_dump_json(indent=1)}\n".encode())
            with contextlib.suppress(OSError):  # an empty file is a claim as well
                os.fsync(descriptor)
            _rename(draft, self._folder)
        except OSError:
            # A file server that was asked twice may report failure for a rename that it has done.
            if not self._is_at_its_place(descriptor):
                os.close(descriptor)
                raise
        return descriptor

    def keep(self, *, on_lost: Callable[[str], None], beat_s: float = BEAT_S) -> None:
        """Start a thread that renews the claim, and calls `on_lost` if the claim is lost."""

        def beat() -> None:
            while not self._over.wait(beat_s):
                if reason := self.renew():
                    on_lost(reason)
                    return

        threading.Thread(target=beat, name="claim", daemon=True).start()

    def renew(self) -> str | None:
        """Give a sign of life; return why the claim is lost, see *Losing*, or None if it is not."""
        with self._turn:
            if self._over.is_set():
                return None
            try:
                with contextlib.suppress(OSError):  # the file was removed
                    os.utime(self._descriptor)
                return self._loss()
            except OSError as error:
                log.warning("%s: %s", self._folder, error.strerror)
                return None  # the file server may answer again at the next beat

    def _loss(self) -> str | None:
        if self._is_at_its_place(self._descriptor):
            self._was_absent = False
            return None
        found = _identity(self._run_dir)
        if found is None and not self._was_absent:
            self._was_absent = True  # ask twice: a file system may be remounted meanwhile
            return None
        if found != self._identity:
            return f"{self._run_dir} was moved or deleted while it was trained"
        descriptor = self._descriptor
        if self.take():
            os.close(descriptor)
            log.warning("%s was removed, and is made again", self._folder)
            return None
        name = holding(self._folder)
        holder = None if name is None else read_holder(self._folder / name)
        return f"{self._run_dir} was taken over by {holder or 'another process'}"

    def _is_at_its_place(self, descriptor: int) -> bool:
        try:
            found = os.open(self._folder / self._name, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            return os.path.sameopenfile(found, descriptor)
        finally:
            os.close(found)

    def release(self) -> None:
        """Remove the claim, if this is the process that took it."""
        if os.getpid() != self._pid:
            return
        with self._turn:
            if self._over.is_set():
                return
            self._over.set()
            os.close(self._descriptor)  # first: NFS keeps an open file under another name
            with contextlib.suppress(OSError):
                (self._folder / self._name).unlink()
            with contextlib.suppress(OSError):
                self._folder.rmdir()


def holding(folder: Path) -> str | None:
    """Return the name of the claim's file in the folder ``claim``; None without a claim.

    Raises:
        InputError: something else lies at that path.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is no claim on a run directory: remove it")
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return None
    for name in names:
        if not _NAME.fullmatch(name) or (folder / name).is_dir():
            raise InputError(f"{folder}/{printable(name)} is no claim: remove it")
    return names[0] if names else None


def _rename(draft: Path, folder: Path) -> None:
    """Rename a folder to a path that does not exist or is an empty folder.

    The rename must fail where a claim exists: the one process that succeeds is the holder. So
    `trainer.files.replace`, which would move another's claim aside, cannot be used.
    """
    try:
        draft.rename(folder)
    except (FileExistsError, PermissionError):  # some file systems replace no folder, even if empty
        with contextlib.suppress(OSError):
            folder.rmdir()
        draft.rename(folder)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
