"""Recognising a file by its first bytes: as text, packed text, or a known format without text."""

import codecs
import re
from typing import Literal, NamedTuple

TableFormat = Literal["parquet", "arrow", "arrow stream"]
Packing = Literal["gzip", "bzip2", "xz", "zstd", "zip"]

#: Bytes that are enough to recognise a file: tar's mark is at byte 257, and JSON needs a line.
HEAD_BYTES = 1 << 16
UTF8_MARK = codecs.BOM_UTF8

_TAR_BLOCK, _TAR_SUM, _TAR_SUM_END = 512, 148, 156
# A text in UTF-16 has at least this share of zeros among its odd or its even bytes: Latin letters,
# spaces and line ends each have one.
_UTF16_ZEROS = 0.3


class Nature(NamedTuple):
    """The kind of a file that is not plain text.

    Attributes:
        name: the common name with its article.
        fix: what to do to train on the file; None if its `packing` is read.
        table: the form of a table, of which a column is read.
        is_text: whether the bytes are text, which the user may want unchanged.
        is_guess: whether the kind was guessed from the bytes, without a mark.
    """

    name: str
    fix: str | None = None
    packing: Packing | None = None
    table: TableFormat | None = None
    is_text: bool = False
    is_guess: bool = False


_UNPACK = "unpack it, and give what is in it"
_TABLES = "write its text column as JSON lines, for example with pyarrow or pandas"
_AS_TABLE = "it is read as a table, unpacked and on its own, without --format"
_ARRAYS = "write the text that it was made of to a file"
_MODEL = "it holds weights, not text; give the text"
_MEDIA = "give the text itself"
_PROGRAM = "it is a program, not text"

TAR = Nature("a tar archive", "unpack it (tar -xf FILE), and give the folder")
BINARY = Nature("binary data (it holds NUL bytes)", "give the text itself", is_guess=True)
WEB_PAGE = Nature(
    "a web page (HTML), as servers send in place of a file", "get the file itself", is_text=True
)
SERVER_ERROR = Nature(
    "the error message of a server, in XML, in place of a file", "get the file itself", is_text=True
)
JSON_DOCUMENT = Nature(
    "one JSON document, not JSON lines",
    "write an object a line (of an array: jq -c '.[]' FILE > NEW.jsonl)",
    is_text=True,
)

#: First bytes, and the kind of file they mark. Of two that match the longer comes first.
_MARKS: tuple[tuple[bytes, Nature], ...] = (
    (b"\x1f\x8b", Nature("gzip", packing="gzip")),
    (b"\xfd7zXZ\x00", Nature("xz", packing="xz")),
    (b"]\x00\x00", Nature("lzma", packing="xz")),
    (b"PK\x03\x04", Nature("zip", packing="zip")),
    (b"PK\x05\x06", Nature("zip", packing="zip")),
    (b"PK\x07\x08", Nature("a part of a zip archive of several", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Nature("Zstandard", packing="zstd")),
    (b"\x04\x22\x4d\x18", Nature("LZ4", "unpack it (lz4 -d FILE)")),
    (b"\x1f\x9d", Nature("compress (.Z)", "unpack it (gzip -d FILE)")),
    (b"\x1f\xa0", Nature("compress (.Z)", "unpack it (gzip -d FILE)")),
    (b"\x89LZO\x00", Nature("lzop", "unpack it (lzop -d FILE)")),
    (b"LZIP\x01", Nature("lzip", "unpack it (lzip -d FILE)")),
    (b"\xff\x06\x00\x00sNaPpY", Nature("Snappy", _UNPACK)),
    (
        b"7z\xbc\xaf\x27\x1c",
        Nature("a 7-Zip archive", "unpack it (7z x FILE)"),
    ),
    (b"Rar!\x1a\x07", Nature("a RAR archive", "unpack it (unrar x FILE)")),
    (b"xar!\x00", Nature("a xar archive", _UNPACK)),
    (b"!<arch>\n", Nature("an ar archive (.a, .deb)", _UNPACK)),
    (b"\xed\xab\xee\xdb", Nature("an RPM package", _UNPACK)),
    (b"PACK\x00\x00\x00", Nature("a git pack", "check the repository out, and give its files")),
    (b"ARROW1\x00\x00", Nature("an Arrow or Feather table", _AS_TABLE, table="arrow")),
    (b"FEA1\x00\x00\x00\x00", Nature("a Feather table", _TABLES)),
    (b"\xff\xff\xff\xff", Nature("an Arrow stream", _AS_TABLE, table="arrow stream")),
    (b"Obj\x01", Nature("an Avro table", _TABLES)),
    (b"SQLite format 3\x00", Nature("an SQLite database", "write its text to a file")),
    (b"\x89HDF\r\n\x1a\n", Nature("an HDF5 file", _ARRAYS)),
    (b"CDF\x01", Nature("a NetCDF file", _ARRAYS)),
    (b"\x93NUMPY", Nature("a NumPy array", _ARRAYS)),
    (b"%PDF-", Nature("a PDF document", "write its text to a file (pdftotext FILE)")),
    (b"{\\rtf", Nature("a rich text document (RTF)", "save it as plain text")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Nature("an Office document", "save it as plain text")),
    (b"\x89PNG\r\n\x1a\n", Nature("a PNG image", _MEDIA)),
    (b"\xff\xd8\xff", Nature("a JPEG image", _MEDIA)),
    (b"GIF87a", Nature("a GIF image", _MEDIA)),
    (b"GIF89a", Nature("a GIF image", _MEDIA)),
    (b"II*\x00", Nature("a TIFF image", _MEDIA)),
    (b"MM\x00*", Nature("a TIFF image", _MEDIA)),
    (b"OggS\x00", Nature("an Ogg recording", _MEDIA)),
    (b"fLaC\x00", Nature("a FLAC recording", _MEDIA)),
    (b"\x1aE\xdf\xa3", Nature("a Matroska film", _MEDIA)),
    (b"\x7fELF", Nature("an ELF program or library", _PROGRAM)),
    (b"\xca\xfe\xba\xbe", Nature("a Java class or Mach-O program", _PROGRAM)),
    (b"\xcf\xfa\xed\xfe", Nature("a Mach-O program", _PROGRAM)),
    (b"\x00asm", Nature("a WebAssembly program", _PROGRAM)),
    (
        b"version https://git-lfs.github.com/spec/",
        Nature(
            "a git-lfs pointer, not the file that it stands for",
            "get it (git lfs pull)",
            is_text=True,
        ),
    ),
    (
        b"/annex/objects/",
        Nature(
            "a git-annex pointer, not the file that it stands for",
            "get it (git annex get FILE)",
            is_text=True,
        ),
    ),
)
# Marks that could also begin a text: they count only if the first bytes are no text.
_SHORT_MARKS: tuple[tuple[re.Pattern[bytes], Nature], ...] = (
    (re.compile(rb"MZ"), Nature("a Windows program", _PROGRAM)),
    (re.compile(rb"BM"), Nature("a bitmap image", _MEDIA)),
    (re.compile(rb"ID3"), Nature("an MP3 recording", _MEDIA)),
    (re.compile(rb"(?s)RIFF....(WAVE|AVI |WEBP)"), Nature("a recording or image (RIFF)", _MEDIA)),
    (re.compile(rb"(?s)....ftyp"), Nature("an MP4 film or HEIF image", _MEDIA)),
    (re.compile(rb"PAR1"), Nature("a Parquet table", _AS_TABLE, table="parquet")),
    (re.compile(rb"ORC"), Nature("an ORC table", _TABLES)),
    (re.compile(rb"GGUF"), Nature("a GGUF model", _MODEL)),
    (re.compile(rb"\x80[\x01-\x05]"), Nature("a pickle", _MODEL)),
    (re.compile(rb"(?s)[\x50-\x5f]\x2a\x4d\x18"), Nature("Zstandard or LZ4", _UNPACK)),
    (re.compile(rb"(?s).{7}\x00\{\s*\""), Nature("safetensors", _MODEL)),
)
# UTF-32's mark begins with UTF-16's, so it comes first.
_WIDE_MARKS = (
    ((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "UTF-32"),
    ((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "UTF-16"),
)
_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")
# The pattern reads each comment before the page once, so no text makes it slow.
_WEB_PAGE = re.compile(
    rb"(?is)\s*(<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*+<(!doctype\s+html|html)[\s>]"
)

_SERVER_ERROR = re.compile(rb"\s*(<\?xml[^>]*>\s*)?<Error>\s*<Code>")


def nature_of(head: bytes) -> Nature | None:
    """Return what a file is by its first `HEAD_BYTES` bytes; None if they look like text."""
    for mark, nature in _MARKS:
        if head.startswith(mark):
            return nature
    if _BZIP2.match(head):
        return Nature("bzip2", packing="bzip2")
    if _is_tar(head):
        return TAR
    for marks, name in _WIDE_MARKS:
        if head.startswith(marks):
            return _encoded(name, name)
    has_nul = b"\x00" in head
    if has_nul or not _is_utf8(head):
        for pattern, nature in _SHORT_MARKS:
            if pattern.match(head):
                return nature
    if has_nul and (wide := _unmarked_wide_text(head)):
        return wide._replace(is_guess=True)
    text = head.removeprefix(UTF8_MARK)
    if _WEB_PAGE.match(text):
        return WEB_PAGE
    if _SERVER_ERROR.match(text):
        return SERVER_ERROR
    return BINARY if has_nul else None


def _is_tar(head: bytes) -> bool:
    """Return whether a tar header's checksum is right: old headers have no mark."""
    block = head[:_TAR_BLOCK]
    if len(block) < _TAR_BLOCK or not block[0]:
        return False
    field = block[_TAR_SUM:_TAR_SUM_END]
    try:
        expected = int(field.strip(b" \x00"), 8)
    except ValueError:
        return False
    return sum(block) - sum(field) + len(field) * ord(" ") == expected


def _unmarked_wide_text(head: bytes) -> Nature | None:
    """Return the encoding of a text of two or four bytes per character, by its zeros' places."""
    shares = [_zeros(head[i::4]) for i in range(4)]
    for name, zeros, others in (
        ("UTF-32LE", shares[1:], shares[0]),
        ("UTF-32BE", shares[:3], shares[3]),
    ):
        if min(zeros) > 0.9 > 0.1 > others:
            return _encoded("UTF-32", name)
    even, odd = _zeros(head[::2]), _zeros(head[1::2])
    if max(even, odd) > _UTF16_ZEROS and min(even, odd) < _UTF16_ZEROS / 10:
        return _encoded("UTF-16", "UTF-16LE" if odd > even else "UTF-16BE")
    return None


def _encoded(name: str, encoding: str) -> Nature:
    return Nature(f"text in {name}", f"make it UTF-8 (iconv -f {encoding} -t UTF-8 FILE > NEW)")


def _zeros(part: bytes) -> float:
    return part.count(0) / len(part) if len(part) > 1 else 0.0


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=False)
    except UnicodeDecodeError:
        return False
    return True
