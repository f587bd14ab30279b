"""Writing files and folders as a whole or not at all, also on limited file systems.

Until a file NAME is whole, it is hidden beside its place as `.NAME.tmp`, or `.NAME.PID` where
several processes may write it; a folder is hidden as `.writing-NAME`. A file or folder that was
replaced is called `.replaced-NAME` until it is removed. The next process that writes NAME removes
what a killed process left, except `.NAME.PID`: its writer may live on another machine.

A file system may lack locks, syncing a folder, changing permissions or renaming onto a file. Such
a step is then left out: it guards against rare accidents.
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

#: Prefixes of a folder's name, until the folder is whole and after it was replaced.
WRITING, REPLACED = ".writing-", ".replaced-"
#: The file in a folder made by `new_folder` that keeps other processes out.
LOCK = "writing.lock"

# Errors of file systems that cannot sync files, cannot sync folders, or cannot rename onto a file;
# and those of every file system for renaming onto a folder that is not empty, or onto a link.
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
    """Yield a new file that becomes `path` when the block ends, unless the block raises.

    A reader sees the old file or the new one.

    Args:
        path: a file of this name is replaced.
        alone: whether no other process writes `path` meanwhile.
        synced: whether to wait until the file is on the disk itself.
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
    """Rename `draft` to `path`, replacing a file or link there; a folder replaces a folder, too.

    The rename is atomic where possible. Where the file system cannot rename onto a file, or the old
    folder is not empty, the old one is moved aside first: for an instant nothing has the name.

    Raises:
        OSError: `draft` could not be renamed; the old file or folder still has the name.
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
        with suppress(OSError):  # before the old one goes: a power cut could take both
            sync_directory(path.parent)
    _remove(aside)


def remove(path: Path) -> None:
    """Remove a folder after renaming it, so that a reader finds all of it or nothing.

    Raises:
        OSError: the folder could not be renamed, and stays.
    """
    aside = path.with_name(f"{REPLACED}{path.name}")
    _remove(aside)
    path.rename(aside)
    _remove(aside)


def _remove(aside: Path) -> None:
    """Remove a file or folder that was moved aside, as far as possible."""
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        with suppress(OSError):
            aside.unlink()


def sync(descriptor: int) -> None:
    """Bring a file to the disk itself, if its file system can.

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
    """Make renames in a directory survive a power cut, if its file system can.

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

    On a file system without locks every process counts as alone.

    Returns:
        Whether this process is alone; if not, another has locked the file, or has renamed it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _log.debug("%s: going on without a lock: %s", path, error.strerror)
    try:
        # The last owner may have finished and renamed the file between our opening and our lock.
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def share(path: Path) -> None:
    """Give a file that a library made private the permissions of new files in its folder.

    These depend on the umask and the folder. A process can read its umask only by setting it, for
    all its threads; so a new file is made, and its permissions are copied.
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

    If the block raises, the new folder is removed. During the block other processes are kept out,
    and an old folder at `path` stays as it is; afterwards `replace` replaces it.

    Args:
        path: the folder's final name.
        refuse: raises if the old folder at `path` must not be replaced; called before and after the
            block. By default only an empty folder may be replaced.
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
        # Only after the rename: without its lock, the draft would let another process in.
        (path / LOCK).unlink()
        sync_directory(path.parent)


@contextmanager
def _locked(draft: Path) -> Iterator[Callable[[], bool]]:
    """Keep other processes out of a folder; yield a function: is the folder still this process's?

    On a file system without locks, another process may take it by writing its own mark.
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
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        elif left.name != LOCK:
            left.unlink()
