"""Reading texts inside a zip or tar file, without ever extracting anything to the disk.

So no name and no link in an archive can make us write anywhere, and no text needs space on disk.
"""

import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from trainer.errors import InputError
from trainer.outside import printable

#: Errors that reading a damaged or foreign archive may raise.
UNREADABLE = (
    OSError,
    EOFError,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
    NotImplementedError,
)


@contextmanager
def open_archive(archive: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    """Yield a function that opens a regular file of an archive by its name, for reading.

    Raises:
        InputError: the file is no archive, cannot be read, or has any entry whose name is absolute
            or leaves the archive (`..`). The function raises it for a name that the archive lacks,
            or has as a link, device, folder or encrypted file.
    """
    with _opened(archive) as opened:

        def open_named(name: str) -> IO[bytes]:
            if isinstance(opened, zipfile.ZipFile):
                return opened.open(_zip_entry(opened, archive, name))
            stream = opened.extractfile(_tar_entry(opened, archive, name))
            assert stream is not None  # only None if the entry is no regular file
            return stream

        yield open_named


@contextmanager
def open_member(archive: Path, name: str) -> Iterator[IO[bytes]]:
    """Open the regular file `name` of an archive for reading; raise what `open_archive` raises."""
    with open_archive(archive) as open_named, open_named(name) as stream:
        yield stream


def zip_sizes(archive: Path) -> dict[str, int]:
    """Return the names and unpacked lengths of the files in a zip archive, without folders.

    Raises:
        InputError: the archive cannot be read, or has two files of one name.
    """
    with _opened(archive) as opened:
        assert isinstance(opened, zipfile.ZipFile)
        infos = [info for info in opened.infolist() if not info.is_dir()]
    sizes = {info.filename: info.file_size for info in infos}
    if len(sizes) < len(infos):
        ((twice, _),) = Counter(info.filename for info in infos).most_common(1)
        raise InputError(
            f"{printable(archive)}: has two files of the name {printable(twice)}: unpack it"
        )
    return sizes


def member_bytes(archive: Path, name: str) -> int:
    """Return the unpacked length of a file in an archive; raise what `open_member` raises."""
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
                    _refuse_unsafe(archive, as_zip.namelist())
                    yield as_zip
            else:
                file.seek(0)
                with tarfile.open(fileobj=file) as as_tar:
                    _refuse_unsafe(archive, as_tar.getnames())
                    yield as_tar
    except UNREADABLE as error:
        raise InputError(
            f"{printable(archive)}: cannot be read as a zip or tar file: {error}"
        ) from None


def _zip_entry(opened: zipfile.ZipFile, archive: Path, name: str) -> zipfile.ZipInfo:
    try:
        entry = opened.getinfo(name)
    except KeyError:
        raise _missing(archive, name) from None
    if entry.flag_bits & 1:
        raise InputError(
            f"{printable(archive)}: {printable(name)} is encrypted: unpack it with its password"
        )
    kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 if the archive was not made on Unix
    if entry.is_dir() or kind not in (0, stat.S_IFREG):
        raise _not_regular(archive, name)
    return entry


def _tar_entry(opened: tarfile.TarFile, archive: Path, name: str) -> tarfile.TarInfo:
    try:
        entry = opened.getmember(name)
    except KeyError:
        raise _missing(archive, name) from None
    if not entry.isreg():
        raise _not_regular(archive, name)
    return entry


def _refuse_unsafe(archive: Path, names: Iterable[str]) -> None:
    if "" in names:
        raise InputError(f"{printable(archive)}: holds a file without a name: unpack it")
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            shown = printable(repr(name))
            raise InputError(
                f"{printable(archive)}: unsafe: its entry {shown} leads out of it; not used"
            )


def _missing(archive: Path, name: str) -> InputError:
    return InputError(f"{printable(archive)}: holds no {name}; it is not the archive it should be")


def _not_regular(archive: Path, name: str) -> InputError:
    shown = printable(name)
    return InputError(f"{printable(archive)}: unsafe: {shown} is a link or no plain file; not used")
