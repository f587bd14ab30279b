"""Texts inside a zip or tar file, read where they are: nothing is ever extracted to the disk.

So no name and no link in an archive can lead a write anywhere, and no text needs room beside it.
"""

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from trainer.errors import InputError

_UNREADABLE = (
    OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError, NotImplementedError
)  # fmt: skip


@contextmanager
def open_member(archive: Path, name: str) -> Iterator[IO[bytes]]:
    """The regular file `name` of an archive, open for reading.

    Raises:
        InputError: the archive is none, cannot be read, lacks `name`, has it as a link, device or
            folder, or has any entry whose name is absolute or leaves the archive (`..`).
    """
    with _opened(archive) as opened:
        if isinstance(opened, zipfile.ZipFile):
            stream: IO[bytes] | None = opened.open(_zip_entry(opened, archive, name))
        else:
            stream = opened.extractfile(_tar_entry(opened, archive, name))
        assert stream is not None  # None is for what is no regular file
        with stream:
            yield stream


def member_bytes(archive: Path, name: str) -> int:
    """Length of what `open_member` would give; raises as it does."""
    with _opened(archive) as opened:
        if isinstance(opened, zipfile.ZipFile):
            return _zip_entry(opened, archive, name).file_size
        return _tar_entry(opened, archive, name).size


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    try:
        with archive.open("rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as as_zip:
                    yield as_zip
            else:
                file.seek(0)
                with tarfile.open(fileobj=file) as as_tar:
                    yield as_tar
    except _UNREADABLE as error:
        raise InputError(f"{archive}: cannot be read as a zip or tar file: {error}") from None


def _zip_entry(opened: zipfile.ZipFile, archive: Path, name: str) -> zipfile.ZipInfo:
    _check(archive, name, opened.namelist())
    entry = opened.getinfo(name)
    kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 where the archive was not made on Unix
    encrypted = entry.flag_bits & 1
    if entry.is_dir() or encrypted or kind not in (0, stat.S_IFREG):
        raise _not_regular(archive, name)
    return entry


def _tar_entry(opened: tarfile.TarFile, archive: Path, name: str) -> tarfile.TarInfo:
    _check(archive, name, opened.getnames())
    entry = opened.getmember(name)
    if not entry.isreg():
        raise _not_regular(archive, name)
    return entry


def _check(archive: Path, name: str, names: Iterable[str]) -> None:
    names = list(names)
    for other in names:
        path = PurePosixPath(other.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{archive}: unsafe: its entry {other!r} leads out of it; not used")
    if name not in names:
        raise InputError(f"{archive}: holds no {name}; it is not the archive it should be")


def _not_regular(archive: Path, name: str) -> InputError:
    return InputError(f"{archive}: unsafe: {name} is a link or no plain file; not used")
