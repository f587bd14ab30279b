"""Text files: recognising them by their bytes, and opening them."""

import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import IO, Literal

from trainer.data.text.archive import member_bytes, open_archive
from trainer.data.text.json_lines import json_shape
from trainer.data.text.nature import (
    BINARY,
    HEAD_BYTES,
    JSON_DOCUMENT,
    UTF8_MARK,
    Nature,
    Packing,
    TableFormat,
    nature_of,
)
from trainer.data.text.unpacking import reading_errors, unpacked
from trainer.errors import InputError
from trainer.outside import printable

TextFormat = Literal["text", "jsonl", "raw"] | TableFormat
Shape = Literal["lines", "document"] | None
OpenRaw = Callable[[], IO[bytes]]
AskedFormat = Literal["auto", "text", "jsonl", "raw"]

_MOST_PACKINGS = 3
# Suffixes that promise JSON lines, and those of text that may well begin like JSON.
_JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
_SOURCE_SUFFIXES = (".py", ".md", ".rst")
_PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".lzma", ".zip", ".zst", ".lz4", ".z")
_ZIP_INSIDE = Nature("a zip archive", "unpack it, and give what is in it")


@dataclass(frozen=True)
class TextFile:
    """A file to read, or the file `member` of an archive.

    Attributes:
        path: the path on the disk.
        name: the file's name in errors.
        format: plain text, JSON lines, a table, or bytes of which nothing is unpacked or left out.
        member: the name in the archive at `path`.
        packings: the packings of its bytes, the outermost first.
        has_mark: whether the text begins with a UTF-8 byte order mark, which is no text.
        member_bytes: length of the member, if known.
    """

    path: Path
    name: str
    format: TextFormat
    member: str | None = None
    packings: tuple[Packing, ...] = ()
    has_mark: bool = False
    member_bytes: int | None = None

    @property
    def n_bytes(self) -> int:
        """Return the length on the disk; of a member, the unpacked length."""
        if self.member is None:
            return self.path.stat().st_size
        if self.member_bytes is not None:
            return self.member_bytes
        return member_bytes(self.path, self.member)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The user's wishes for how files are read.

    Attributes:
        format: the format; `auto` recognises it by the bytes.
        text_field: key of the text in a JSON line, and name of its column in a table.
        as_bytes: whether the tokenizer takes any bytes.
        chooses_tokenizer: whether the user may take another tokenizer, which errors then propose.
    """

    format: AskedFormat = "auto"
    text_field: str = "text"
    as_bytes: bool = False
    chooses_tokenizer: bool = True


def suffix_of(name: str) -> str:
    """Return the last suffix of a name that is no packing's, in lower case."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    while suffixes and suffixes[-1] in _PACKED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def opens(path: Path) -> OpenRaw:
    """Return the function that opens the file at `path`."""
    return lambda: path.open("rb")


@dataclass(frozen=True)
class Head:
    """The first bytes of a file, unpacked, and the kind of file that they show."""

    packings: tuple[Packing, ...]
    data: bytes
    nature: Nature | None


def read_head(name: str, open_raw: OpenRaw) -> Head:
    """Read the first bytes of the file called `name`, through all its packings.

    Raises:
        InputError: the file cannot be read or unpacked, or has too many packings.
    """
    packings: tuple[Packing, ...] = ()
    while True:
        with reading_errors(name), open_raw() as raw:
            data = unpacked(raw, packings).read(HEAD_BYTES)
        nature = nature_of(data)
        if nature is None or nature.packing in (None, "zip"):
            return Head(packings, data, nature)
        packings += (nature.packing,)
        if len(packings) > _MOST_PACKINGS:
            raise InputError(
                f"{printable(name)}: packed more than {_MOST_PACKINGS} times: unpack it"
            )


def is_json_document(file: TextFile, reading: Reading, open_raw: OpenRaw) -> bool:
    """Return whether a file is one JSON document, not JSON lines; False if it is unreadable."""
    try:
        head = read_head(file.name, open_raw)
    except InputError:
        return False
    return json_shape(head.data, text_field=reading.text_field) == "document"


def inspected(file: TextFile, reading: Reading, head: Head) -> TextFile:
    """Return `file` completed by what its bytes show.

    Raises:
        InputError: the file is not text.
    """
    nature = head.nature
    if nature is not None and nature.packing == "zip":
        nature = _ZIP_INSIDE
    is_alone = file.member is None and not head.packings
    if nature is not None and nature.table and is_alone and reading.format == "auto":
        return replace(file, format=nature.table)
    shape = _shape(file, head, reading)
    if nature is None and shape == "document" and reading.format == "auto":
        nature = JSON_DOCUMENT
    if nature is not None and not _is_wanted(nature, shape, reading):
        raise _refusal(file, head.packings, nature, reading)
    by_content: TextFormat = "jsonl" if shape == "lines" else "text"
    return replace(
        file,
        format=by_content if reading.format == "auto" else reading.format,
        packings=head.packings,
        has_mark=head.data.startswith(UTF8_MARK),
    )


def _shape(file: TextFile, head: Head, reading: Reading) -> Shape:
    suffix = suffix_of(file.member or file.path.name)
    if suffix in _JSON_LINES_SUFFIXES:
        return "lines"
    if suffix in _SOURCE_SUFFIXES:
        return None
    return json_shape(head.data, text_field=reading.text_field)


def _is_wanted(nature: Nature, shape: Shape, reading: Reading) -> bool:
    """Return whether a file is read although it is not plain text.

    It is read if the user asked for text of this kind; or if its kind is a guess, and the tokenizer
    takes any bytes or the file is JSON lines, of which single lines may be broken.
    """
    if nature.is_text:
        return reading.format != "auto"
    return nature.is_guess and (reading.as_bytes or (shape == "lines" and nature is BINARY))


def _refusal(
    file: TextFile, packings: tuple[Packing, ...], nature: Nature, reading: Reading
) -> InputError:
    what = " of ".join([*packings, nature.name])
    fix = (nature.fix or "").replace("FILE", shlex.quote(printable(file.name)))
    if nature.is_text:
        fix += "; to read it as it is, --format text"
    elif reading.as_bytes:
        fix += "; to train on its bytes as they are, --format raw"
    return InputError(f"{printable(file.name)}: this is {what}, not text: {fix}")


def open_files(files: Iterable[TextFile]) -> Iterator[tuple[TextFile, IO[bytes]]]:
    """Yield each file with a stream of its packed bytes; open an archive once for its members.

    Raises:
        InputError: a file cannot be opened, or an archive does not hold what it should.
    """

    def place(file: TextFile) -> tuple[Path, bool]:
        return file.path, file.member is not None

    for (path, is_archive), group in groupby(files, key=place):
        if is_archive:
            with open_archive(path) as open_named:
                for file in group:
                    with open_named(file.member or "") as member:
                        yield file, member
        else:
            for file in group:
                with reading_errors(file.name), path.open("rb") as raw:
                    yield file, raw
