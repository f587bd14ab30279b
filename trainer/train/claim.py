"""Whose a run directory is: one training's at a time, and nobody's once its process is gone.

Who trains in RUN holds the file ``RUN/claim/NONCE.json``, whose name no other claim ever has. It
says host and process, and is touched every `BEAT_S` seconds by a thread of the holder.

- **Taking.** A claimant makes a folder of its own, with its file in it, and renames it to
  ``claim``. That fails where ``claim`` holds a file, so one of any number of claimants succeeds, on
  every file system and without a lock.
- **Leaving.** The holder removes its file, then the folder. An empty folder is free.
- **Taking over.** Who finds the holder gone removes its file, and takes the empty folder as above.
  A claimant that is slow to do so cannot remove the claim that came after: its name is another.
- **Finding the holder gone.** On its own machine the kernel says whether the process runs, its
  number reused or not. From another container it says whether the file is still locked (`flock`),
  where the file system has locks. Else the claimant watches the file's time of change, which the
  file server sets: a change within `STALE_S` seconds of the claimant's own clock means that the
  holder lives. So no clocks of two machines are ever compared, and the locks that a file server
  keeps for a lost machine, or keeps to one machine, mislead nobody.
- **Losing.** A holder that was stopped for so long that another took over finds its file gone when
  it wakes, and leaves without writing. It also leaves when the directory was moved or deleted: its
  paths lead elsewhere now. A claim that was removed by hand is made again.

`trainer.train.claimant` takes and takes over; here is what a holder does.
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

#: The folder in a run directory that holds the claim, and what those begin with that are to be it.
CLAIM, DRAFT = "claim", ".claim-"
#: Seconds between two signs of life.
BEAT_S = 5.0
#: Seconds without a sign of life after which a holder that nothing else is known of is gone.
STALE_S = 60.0

_NAME = re.compile(r"[0-9a-f]{32}\.json")
#: What a rename says when another was first, or has tidied the draft away.
_LOST_THE_RACE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT)

log = logging.getLogger(__name__)


class Claim:
    """A claim that this process holds, once `take` has taken it."""

    def __init__(self, run_dir: Path, *, here: Place) -> None:
        """A claim on `run_dir`, which exists, by this process, which runs `here`."""
        self._run_dir, self._here = run_dir, here
        self._folder, self._name = run_dir / CLAIM, f"{secrets.token_hex(16)}.json"
        self._identity = _identity(run_dir)
        self._descriptor, self._pid = -1, os.getpid()
        self._over, self._turn = threading.Event(), threading.Lock()
        self._was_absent = False

    def take(self) -> bool:
        """Take the directory if it is free: see *taking*.

        Raises:
            OSError: no claim can be written there.
        """
        draft = self._run_dir / f"{DRAFT}{Path(self._name).stem}"
        try:
            draft.mkdir()
        except FileNotFoundError:
            if self._run_dir.is_dir():
                raise
            return False  # a claimant that was refused has removed what it made
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
        """Write the claim and put it in its place; returns the file, opened."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(draft / self._name, flags, 0o666)
        try:
            holder = Holder.this_process(descriptor, self._here)
            os.write(descriptor, f"{holder.model_dump_json(indent=1)}\n".encode())
            with contextlib.suppress(OSError):  # a claim without words holds as well
                os.fsync(descriptor)
            _rename(draft, self._folder)
        except OSError:
            # A file server may have done what it reports as failed, when it was asked twice.
            if not self._is_at_its_place(descriptor):
                os.close(descriptor)
                raise
        return descriptor

    def keep(self, *, on_lost: Callable[[str], None], beat_s: float = BEAT_S) -> None:
        """Renew the claim in a thread from now on; `on_lost` is called there when it is lost."""

        def beat() -> None:
            while not self._over.wait(beat_s):
                if reason := self.renew():
                    on_lost(reason)
                    return

        threading.Thread(target=beat, name="claim", daemon=True).start()

    def renew(self) -> str | None:
        """Give a sign of life; returns why the claim is lost, if it is: see *losing*."""
        with self._turn:
            if self._over.is_set():
                return None
            try:
                with contextlib.suppress(OSError):  # of a file that was removed
                    os.utime(self._descriptor)
                return self._loss()
            except OSError as error:
                log.warning("%s: %s", self._folder, error.strerror)
                return None  # the file server has trouble: ask again at the next beat

    def _loss(self) -> str | None:
        if self._is_at_its_place(self._descriptor):
            self._was_absent = False
            return None
        found = _identity(self._run_dir)
        if found is None and not self._was_absent:
            self._was_absent = True  # ask twice: a file system that is mounted again is away
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
        """Give the directory back, in the process that took it."""
        if os.getpid() != self._pid:
            return
        with self._turn:
            if self._over.is_set():
                return
            self._over.set()
            os.close(self._descriptor)  # first: NFS keeps what is open under another name
            with contextlib.suppress(OSError):
                (self._folder / self._name).unlink()
            with contextlib.suppress(OSError):
                self._folder.rmdir()


def holding(folder: Path) -> str | None:
    """Name of the file in ``claim`` that holds the claim, or None.

    Raises:
        InputError: something else lies there.
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
    """Rename a folder to one that is not there or empty.

    `trainer.files.replace` would move another's claim aside. This must fail where there is one: of
    all who try, the one who succeeds is the holder.
    """
    try:
        draft.rename(folder)
    except (FileExistsError, PermissionError):  # some file systems replace not even an empty one
        with contextlib.suppress(OSError):
            folder.rmdir()
        draft.rename(folder)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
