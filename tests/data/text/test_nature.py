"""What a file is, its first bytes say: files of each kind, and text that looks like one."""

import bz2
import codecs
import gzip
import io
import lzma
import pickle
import sqlite3
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.data.text.nature import HEAD_BYTES, nature_of


def a_tar(kind: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        entry = tarfile.TarInfo("books/a.txt")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"hello"))
    return file.getvalue()


def an_old_tar() -> bytes:
    """Return a tar of before POSIX: no mark, and the sum of the header made anew without it."""
    data = bytearray(a_tar(tarfile.USTAR_FORMAT))
    data[257:265] = bytes(8)
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    return bytes(data)


def a_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "hello")
    return file.getvalue()


def an_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(9))
    return file.getvalue()


def an_old_torch_file() -> bytes:
    file = io.BytesIO()
    torch.save(torch.ones(3), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def a_database() -> bytes:
    with sqlite3.connect(":memory:") as database:
        database.execute("create table t (x)")
        return database.serialize()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
WORDS = "Ein Wort, und dann noch eins.\n"
KINDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "gzip": (lambda: gzip.compress(b"a"), "gzip"),
    "bzip2": (lambda: bz2.compress(b"a"), "bzip2"),
    "empty bzip2": (lambda: bz2.compress(b""), "bzip2"),
    "xz": (lambda: lzma.compress(b"a"), "xz"),
    "lzma": (lambda: lzma.compress(b"a", lzma.FORMAT_ALONE), "lzma"),
    "zip": (a_zip, "zip"),
    "ustar": (lambda: a_tar(tarfile.USTAR_FORMAT), "tar archive"),
    "gnu tar": (lambda: a_tar(tarfile.GNU_FORMAT), "tar archive"),
    "pax tar": (lambda: a_tar(tarfile.PAX_FORMAT), "tar archive"),
    "old tar": (an_old_tar, "tar archive"),
    "zstd": (lambda: b"\x28\xb5\x2f\xfd\x04\x00", "Zstandard"),
    "skippable zstd": (lambda: b"\x50\x2a\x4d\x18\x04\x00\x00\x00", "Zstandard"),
    "lz4": (lambda: b"\x04\x22\x4d\x18\x64\x40", "LZ4"),
    "compress": (lambda: b"\x1f\x9d\x90a", "compress"),
    "7z": (lambda: b"7z\xbc\xaf\x27\x1c\x00\x04", "7-Zip"),
    "rar": (lambda: b"Rar!\x1a\x07\x01\x00", "RAR"),
    "parquet": (lambda: b"PAR1\x15\x04\x15\x00\x15", "Parquet"),
    "arrow": (lambda: b"ARROW1\x00\x00\xff\xff\xff\xff", "Arrow"),
    "arrow stream": (lambda: b"\xff\xff\xff\xff\x10\x00\x00\x00", "Arrow"),
    "orc": (lambda: b"ORC\x11\x00\x00\x0a", "ORC"),
    "avro": (lambda: b"Obj\x01\x04\x16avro.schema", "Avro"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n\x00", "HDF5"),
    "numpy": (an_array, "NumPy"),
    "pickle": (lambda: pickle.dumps(["text"] * 9), "pickle"),
    "old torch": (an_old_torch_file, "pickle"),
    "safetensors": (lambda: struct.pack("<Q", 40) + b'{"a":{"dtype":"F32"}}', "safetensors"),
    "gguf": (lambda: b"GGUF\x03\x00\x00\x00", "GGUF"),
    "sqlite": (a_database, "SQLite"),
    "pdf": (lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
    "doc": (lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\x00", "Office"),
    "rtf": (lambda: b"{\\rtf1\\ansi hello}", "RTF"),
    "png": (lambda: b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "PNG"),
    "jpeg": (lambda: b"\xff\xd8\xff\xe0\x00\x10JFIF", "JPEG"),
    "gif": (lambda: b"GIF89a\x01\x00", "GIF"),
    "wav": (lambda: b"RIFF\x24\x08\x00\x00WAVEfmt ", "RIFF"),
    "mp3": (lambda: b"ID3\x04\x00\x00\x00", "MP3"),
    "mp4": (lambda: b"\x00\x00\x00\x18ftypmp42", "MP4"),
    "elf": (lambda: Path(sys.executable).read_bytes()[:HEAD_BYTES], "ELF"),
    "exe": (lambda: b"MZ\x90\x00\x03\x00", "Windows program"),
    "lfs": (lambda: POINTER, "git-lfs pointer"),
    "annex": (lambda: b"/annex/objects/MD5E-s1--a.txt\n", "git-annex pointer"),
    "page": (lambda: b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "web page"),
    "commented page": (lambda: b"\xef\xbb\xbf<!-- a -->\n<html lang='en'>", "web page"),
    "bucket": (lambda: b'<?xml version="1.0"?>\n<Error><Code>NoSuchKey</Code></Error>', "a server"),
    "nul": (lambda: b"text\x00text", "binary data"),
    "utf-16": (lambda: WORDS.encode("utf-16"), "UTF-16"),
    "utf-16 be": (lambda: codecs.BOM_UTF16_BE + WORDS.encode("utf-16-be"), "UTF-16"),
    "utf-32": (lambda: WORDS.encode("utf-32"), "UTF-32"),
    "utf-16 le unmarked": (lambda: WORDS.encode("utf-16-le"), "UTF-16"),
    "utf-16 be unmarked": (lambda: WORDS.encode("utf-16-be"), "UTF-16"),
    "utf-32 le unmarked": (lambda: WORDS.encode("utf-32-le"), "UTF-32"),
    "utf-32 be unmarked": (lambda: WORDS.encode("utf-32-be"), "UTF-32"),
}
TEXTS = (
    "",
    "\n",
    "a",
    WORDS * 999,
    "PAR1 is how a Parquet file begins.",
    "GGUF models",
    "MZ and BM",
    "BZh9 is bzip2's mark",
    "ID3 tags",
    "RIFF....WAVE",
    "ORCs\n",
    "<p>html?</p>",
    "<html5 is no",
    "<mediawiki xml:lang='en'>",
    '<?xml version="1.0"?>\n<doc>',
    "PK\x03 no",
    "Obj 1",
    "\x1fno",
    "version https://example.com",
    "日本語の文章。\n" * 99,
    "7z e",
    "{\\r",
    "%!PS",
    "\ufeffmarked",
    "0000644\x20" * 99,
    " " * 600,
    "%PD",
    "<!-- -->" * 8000,
    "naïve".join(map(str, range(9999))),
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_known_by_its_bytes_and_is_read_or_has_a_way_out(kind: str) -> None:
    make, name = KINDS[kind]
    nature = nature_of(make()[:HEAD_BYTES])
    assert nature is not None
    assert name in nature.name
    assert bool(nature.fix) != bool(nature.packing)


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_nothing_else_wherever_its_head_is_cut(text: str) -> None:
    data = text.encode()
    for end in {len(data), *range(min(len(data), 12)), len(data) // 2, HEAD_BYTES}:
        assert nature_of(data[:end]) is None, data[:end]


def test_latin_1_is_no_kind_of_its_own() -> None:
    """Reading it says at which byte it is no UTF-8."""
    assert nature_of("naïve café\n".encode("latin-1") * 99) is None
