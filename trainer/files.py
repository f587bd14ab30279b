"""Files and folders whole or not at all, on file systems that can do less than others.

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

from trainer.errors import InputError

_log = logging.getLogger(__name__)

# How file systems say that they do not sync files, or folders, and do not rename onto a file.
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS}
_NO_FOLDER_SYNC = _NO_SYNC | {errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}
_NO_REPLACING = _NO_SYNC | {errno.EEXIST, errno.EACCES, errno.EPERM, errno.EBUSY}


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` with `text`, synced to disk: a reader sees the old file or the new one."""
    with replacing(path) as file:
        file.write(text)


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A new file that becomes `path` when the block ends, synced to disk; never if it raises."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            sync(file.fileno())
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def replace(draft: Path, path: Path) -> None:
    """Give the file `draft` the name `path`, whatever file has it; at once, where that can be.

    Where files are not renamed onto others, the one that is there is moved aside first. If that
    fails, it stays.

    Raises:
        OSError: `draft` could not be renamed.
    """
    try:
        draft.replace(path)
    except OSError as error:
        if error.errno not in _NO_REPLACING or not path.is_file():
            raise
        aside = path.with_name(f".{path.name}.replaced")
        aside.unlink(missing_ok=True)
        path.rename(aside)
        try:
            draft.rename(path)
        except OSError:
            aside.rename(path)
            raise
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


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write in, which becomes `out` at the end and is removed on an error.

    Raises:
        InputError: `out` is there already, and not empty, or cannot be made.
    """
    out = out.resolve()
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"--out {out} exists: give another")
        out.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
        yield draft
        if out.is_dir():
            out.rmdir()
        draft.rename(out)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
