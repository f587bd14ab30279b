"""Text from files, folders, JSON lines and compressed files, as a stream of pieces.

Memory stays constant: a text file is never held whole, a JSON line is.
"""

import codecs
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NamedTuple

from trainer.data.archive import member_bytes, open_member
from trainer.errors import InputError

TextFormat = Literal["text", "jsonl"]

# What is read from a folder; a file that is named is read whatever its suffix.
TEXT_SUFFIXES = (".txt", ".text", ".tokens", ".md", ".rst", ".py", ".jsonl")
COMPRESSED_SUFFIXES = (".gz", ".xz")
PIECE_BYTES = 1 << 15

# No word, and no pre-token of GPT-2 and its kin, reaches from a visible character into the space
# after it, so a text may be cut there without changing any id. A text without spaces is cut
# before a line end, which a few tokenizers do join to the punctuation before it.
_UP_TO_LAST_CUT = re.compile(r"(?s).*\S(?= )"), re.compile(r"(?s).*\S(?=\n)")


class Piece(NamedTuple):
    """A stretch of a document; the last one of a document is empty only if the document is."""

    text: str
    ends_document: bool


@dataclass(frozen=True)
class TextFile:
    """A file to read, or the file `member` of an archive; `name` is what errors call it."""

    path: Path
    name: str
    format: TextFormat
    member: str | None = None

    @property
    def n_bytes(self) -> int:
        """Length on the disk; of a member, its length unpacked."""
        return member_bytes(self.path, self.member) if self.member else self.path.stat().st_size


@dataclass(frozen=True)
class FoundFiles:
    """Files to read in order, and how many beside them had another suffix."""

    files: tuple[TextFile, ...]
    n_skipped: int


def find_files(path: Path, *, format: TextFormat | Literal["auto"]) -> FoundFiles:
    """A file, or the texts of a folder: recursively, sorted, chosen by suffix.

    Args:
        path: file or folder.
        format: of every file; `auto` goes by the suffix.

    Raises:
        InputError: the path does not exist, is a pipe, or the folder holds no text.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_file():
        return FoundFiles((text_file(path, format=format),), n_skipped=0)
    if not path.is_dir():
        raise InputError(f"{path}: not a file, and files are read twice; pipe it to --train -")
    inside = sorted(p for p in path.rglob("*") if p.is_file())
    texts = [p for p in inside if _suffix(p) in TEXT_SUFFIXES]
    if not texts:
        raise InputError(
            f"{path}: none of its {len(inside)} files is a text; "
            f"in folders these are read: {' '.join(TEXT_SUFFIXES)}, also with .gz or .xz"
        )
    return FoundFiles(
        tuple(text_file(p, format=format) for p in texts), n_skipped=len(inside) - len(texts)
    )


def text_file(
    path: Path, *, format: TextFormat | Literal["auto"], name: str | None = None
) -> TextFile:
    """A file to read, its format by its suffix unless it is given."""
    if format == "auto":
        format = "jsonl" if _suffix(path) == ".jsonl" else "text"
    return TextFile(path, name or str(path), format)


def read_pieces(
    files: Iterable[TextFile],
    *,
    text_field: str = "text",
    as_bytes: bool = False,
    on_read: Callable[[int], None] = lambda n_bytes: None,
) -> Iterator[Piece]:
    """All documents of `files` in order: a text file is one, and so is each JSON line.

    Args:
        files: what to read.
        text_field: key of the text in a JSON line.
        as_bytes: give one character per byte (Latin-1) and do not ask for UTF-8.
        on_read: called with the number of bytes just read from the disk.

    Raises:
        InputError: a file cannot be read or decompressed, is not UTF-8, or a line is not JSON
            with a text; the message names file and byte offset or line.
    """
    for file in files:
        try:
            with _opened(file) as raw:
                stream = raw if file.member else _decompressed(raw, file.path)
                if file.format == "jsonl":
                    pieces = _json_pieces(stream, file.name, text_field, as_bytes=as_bytes)
                else:
                    pieces = _text_pieces(stream, file.name, as_bytes=as_bytes)
                n_seen = 0
                for piece in pieces:
                    yield piece
                    on_read(raw.tell() - n_seen)
                    n_seen = raw.tell()
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise InputError(f"{file.name}: cannot be read: {error}") from None


def count_words(piece: Piece) -> int:
    """Words of a piece, and one for each line end: what the words tokenizer would count."""
    text, ends_document = piece
    unended_line = ends_document and bool(text) and not text.endswith("\n")
    return len(text.split()) + text.count("\n") + unended_line


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _opened(file: TextFile) -> AbstractContextManager[IO[bytes]]:
    return open_member(file.path, file.member) if file.member else file.path.open("rb")


def _decompressed(raw: IO[bytes], path: Path) -> IO[bytes]:
    match path.suffix.lower():
        case ".gz":
            return io.BufferedReader(gzip.GzipFile(fileobj=raw), PIECE_BYTES)
        case ".xz":
            return io.BufferedReader(lzma.LZMAFile(raw), PIECE_BYTES)
    return raw


def _text_pieces(stream: IO[bytes], name: str, *, as_bytes: bool) -> Iterator[Piece]:
    decoder = codecs.getincrementaldecoder("latin-1" if as_bytes else "utf-8")()
    rest = ""
    n_read = 0
    while True:
        block = stream.read(PIECE_BYTES)
        n_pending = len(decoder.getstate()[0])
        try:
            rest += decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}: not UTF-8 at byte {n_read - n_pending + error.start} ({error.reason}); "
                "convert it, or read it with --tokenizer bytes"
            ) from None
        if not block:
            yield Piece(rest, ends_document=True)
            return
        n_read += len(block)
        if cut := _cut(rest):
            yield Piece(rest[:cut], ends_document=False)
            rest = rest[cut:]


def _cut(text: str) -> int:
    """Length of the part of `text` that can go before more is read; 0 is none yet."""
    for up_to_last_cut in _UP_TO_LAST_CUT:
        if match := up_to_last_cut.match(text):
            return match.end()
    # A run longer than a piece without a space is cut anyway, for memory to stay bounded; a
    # character stays behind so that the last piece of a document is not empty.
    return len(text) - 1 if len(text) > PIECE_BYTES else 0


def _json_pieces(
    stream: IO[bytes], name: str, text_field: str, *, as_bytes: bool
) -> Iterator[Piece]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        text = _json_text(line, f"{name}:{number}", text_field)
        yield from _text_pieces(io.BytesIO(text), name, as_bytes=as_bytes)


def _json_text(line: bytes, where: str, text_field: str) -> bytes:
    try:
        record = json.loads(line)
        text: bytes = record[text_field].encode()
        return text
    except UnicodeError as error:
        raise InputError(f"{where}: not UTF-8: {error}") from None
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from None
    except (KeyError, TypeError, AttributeError):
        found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise InputError(
            f"{where}: no text under {text_field!r} (found {found}); name it with --text-field"
        ) from None
