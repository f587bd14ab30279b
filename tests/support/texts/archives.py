"""Archives as others make them, with links and odd kinds of entries."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path


def make_zip(path: Path, entries: dict[str, bytes], *, links: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            kind = stat.S_IFLNK if name in links else stat.S_IFREG
            entry.external_attr = (kind | 0o644) << 16
            archive.writestr(entry, content)
    return path


def make_tgz(
    path: Path, entries: dict[str, bytes], *, links: tuple[str, ...] = (), kind: bytes = b""
) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            if name in links:
                entry.type = kind or tarfile.SYMTYPE
                entry.linkname = content.decode()
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path
