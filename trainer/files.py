"""Files and folders whole or not at all, on file systems that can do less than others.

What is not whole yet is hidden beside its place: a file as `.NAME.tmp` (`.NAME.PID` where others
may write it, too), a folder as `.writing-NAME`. What has lost its place is `.replaced-NAME` until
it is removed. The next to write NAME removes what a killed process left, but for `.NAME.PID`: its
writer may live, on another machine.

What a file system does not know (locks, syncing a folder, changing permissions, renaming onto a
file) is done without: it would make sure of what mostly holds anyway.
"""

import errno
import fcntl
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

from trainer.errors import InputError

#: What the name of a folder begins with until it is whole, and once it has lost its place.
WRITING, REPLACED = ".writing-", ".replaced-"
#: Lies in a folder that `new_folder` makes, and keeps other processes out of it.
LOCK = "writing.lock"

# How file systems say that they do not sync files, or folders, and do not rename onto a file; and
# how all of them say so of a folder that holds something, and of a link in a folder's place.
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS}
_NO_FOLDER_SYNC = _NO_SYNC | {errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}
_NO_REPLACING = _NO_SYNC | {errno.EEXIST, errno.EACCES, errno.EPERM, errno.EBUSY}
_FILLED_OR_LINK = {errno.ENOTEMPTY, errno.ENOTDIR}

_log = logging.getLogger(__name__)


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` with `text`, synced to disk: a reader sees the old file or the new one."""
    with replacing(path) as file:
        file.write(text)


@contextmanager
def replacing(path: Path, *, alone: bool = False, synced: bool = True) -> Iterator[TextIO]:
    """Yield a new file that becomes `path` when the block ends; never if it raises.

    A reader sees the old file or the new one.

    Args:
        path: whatever file has this name is replaced.
        alone: no other process writes `path` meanwhile.
        synced: wait until it is on the disk itself.
    """
    draft = path.with_name(f".{path.name}.{'tmp' if alone else os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8", newline="") as file:
            yield file
            if synced:
                file.flush()
                sync(file.fileno())
        replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    if synced:
        sync_directory(path.parent)


def replace(draft: Path, path: Path) -> None:
    """Give `draft` the name `path`, whatever file, or link, or folder for a folder, has it.

    That is done at once, where it can be. Where files are not renamed onto others, and where a
    folder holds something, what is there is moved aside first: for an instant nothing has the name.

    Raises:
        OSError: `draft` could not be renamed; what had the name has it.
    """
    aside = path.with_name(f"{REPLACED}{path.name}")
    try:
        draft.replace(path)
    except OSError as error:
        is_alike = path.is_dir() if draft.is_dir() else path.is_file()
        is_refused = error.errno in _NO_REPLACING | _FILLED_OR_LINK
        if not is_refused or not (is_alike or path.is_symlink()):
            raise
        _remove(aside)
        path.rename(aside)
        try:
            draft.rename(path)
        except BaseException:
            if not os.path.lexists(path):
                aside.rename(path)
            raise
        with suppress(OSError):  # first, or a power cut may take both
            sync_directory(path.parent)
    _remove(aside)


def remove(path: Path) -> None:
    """Remove a folder at once, by renaming it first: a reader finds all of it or nothing.

    Raises:
        OSError: it could not be renamed, and stays.
    """
    aside = path.with_name(f"{REPLACED}{path.name}")
    _remove(aside)
    path.rename(aside)
    _remove(aside)


def _remove(aside: Path) -> None:
    """Remove what has lost its place, as far as that can be."""
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        with suppress(OSError):
            aside.unlink()


def sync(descriptor: int) -> None:
    """Bring a file to the disk itself, where its file system knows how to.

    Raises:
        OSError: the disk is full or broken.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def sync_file(path: Path) -> None:
    """Bring a file that was written and closed to the disk; see `sync`."""
    with path.open("rb") as file:
        sync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make renames in a directory survive a power cut, where its file system knows how to.

    Raises:
        OSError: the disk is broken.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def lock(file: IO[Any], path: Path) -> bool:
    """Lock the open `file` at `path` for this process until it is closed.

    Where the file system has no locks, everyone is told to be alone.

    Returns:
        Whether this process is alone with it. Another has it locked, else, or has renamed it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _log.debug("%s: going on without a lock: %s", path, error.strerror)
    try:
        # Its last owner may have finished, and renamed it, between our opening and our lock.
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def share(path: Path) -> None:
    """Give a file that a library made private the permissions that new files have in its folder.

    They follow from the umask and from what the folder itself says. A process cannot ask for its
    umask without setting it, for all of its threads; so a new file is made, and looked at.
    """
    new = path.with_name(f".{path.name}.permissions")
    try:
        new.touch(exist_ok=False)
        path.chmod(stat.S_IMODE(new.stat().st_mode))
    except OSError as error:  # some mounted folders have permissions of their own
        _log.debug("%s keeps its permissions: %s", path, error.strerror)
    finally:
        new.unlink(missing_ok=True)


def _refuse_filled(path: Path) -> None:
    """Refuse to replace anything but an empty folder."""
    if not path.is_dir() or any(path.iterdir()):
        raise InputError(f"--out {path} exists: give another")


@contextmanager
def new_folder(
    path: Path,
    *,
    refuse: Callable[[Path], None] = _refuse_filled,
    scratch: Iterable[str] = (),
) -> Iterator[Path]:
    """Yield an empty folder to write in, which becomes `path` when the block ends, synced to disk.

    It is removed if the block raises. Until the block ends, other processes are kept out of it, and
    a folder that has the name `path` stays as it is; then `replace` replaces that.

    Args:
        path: what the folder is to be called.
        refuse: raises where the folder of that name must not be replaced; called twice, before the
            block and after it. By default only an empty one may be.
        scratch: names of files in the new folder that are not kept.

    Raises:
        InputError: another process writes the folder, or what `refuse` raises.
        OSError: the folder cannot be written.
    """
    path = path.resolve()
    draft = path.with_name(f"{WRITING}{path.name}")
    if path.exists():
        refuse(path)
    draft.mkdir(parents=True, exist_ok=True)
    with _locked(draft) as is_ours:
        try:
            _empty(draft)
            yield draft
            if not is_ours():
                raise InputError(f"{draft}: another process has begun to write it: wait for that")
            for name in scratch:
                (draft / name).unlink(missing_ok=True)
            for written in (*draft.rglob("*"), draft):
                (sync_directory if written.is_dir() else sync_file)(written)
            if path.exists():
                refuse(path)
            replace(draft, path)
        except BaseException:
            if is_ours():
                shutil.rmtree(draft, ignore_errors=True)
            raise
        # Only now: a lock that goes before the draft's name does would let another process in.
        (path / LOCK).unlink()
        sync_directory(path.parent)


@contextmanager
def _locked(draft: Path) -> Iterator[Callable[[], bool]]:
    """Keep other processes out of a folder; yield what tells whether it is still this one's.

    Where the file system has no locks it may be another's, who wrote a mark of its own.
    """
    path, mark = draft / LOCK, secrets.token_hex(16)
    with path.open("a") as file:
        if not lock(file, path):
            raise InputError(f"{draft}: another process is writing it; wait for it")
        file.truncate(0)
        file.write(mark)
        file.flush()
        yield lambda: path.is_file() and path.read_text() == mark


def _empty(draft: Path) -> None:
    """Remove all but the lock from a folder."""
    for left in draft.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        elif left.name != LOCK:
            left.unlink()
