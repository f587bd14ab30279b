"""Reading text files, JSON lines, tables and packed files as a stream of pieces.

Memory stays constant: no text file is held whole, but each JSON line and row of a table is.
"""

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from typing import IO, NamedTuple

from trainer.data.text.json_lines import BadLines, read_texts
from trainer.data.text.nature import UTF8_MARK
from trainer.data.text.source import Reading, TextFile, open_files
from trainer.data.text.tables import read_table
from trainer.data.text.unpacking import reading_errors, unpacked
from trainer.errors import InputError
from trainer.outside import printable

PIECE_BYTES = 1 << 15
LONGEST_WORD = 1 << 20

# No word, and no pre-token of GPT-2 and the like, reaches from a visible character into the space
# after it, so a cut there changes no id. A text without spaces is cut before a line end, although a
# few tokenizers join a line end to the punctuation before it.
_UP_TO_LAST_CUT = re.compile(r"(?s).*\S(?= )"), re.compile(r"(?s).*\S(?=\n)")


class Piece(NamedTuple):
    """A part of a document; a document's last piece is empty only if the document is empty.

    A line end of two characters is never cut in two.
    """

    text: str
    ends_document: bool


def read_pieces(
    files: Iterable[TextFile],
    reading: Reading | None = None,
    *,
    bad_lines: BadLines | None = None,
    on_read: Callable[[int], None] = lambda n_bytes: None,
) -> Iterator[Piece]:
    """Yield all documents of `files` in order: a text file, JSON line or row of a table is one.

    Args:
        files: the files to read.
        reading: how to read them; `as_bytes` gives one character per byte (Latin-1), not UTF-8.
        bad_lines: the rule for JSON lines without a text; by default the first is an error.
        on_read: called with the number of bytes just read from the disk.

    Raises:
        InputError: a file cannot be read or unpacked, is not UTF-8, holds a NUL, or a line is not
            JSON with a text; the message names file and byte offset or line.
    """
    reading = reading or Reading()
    bad_lines = BadLines() if bad_lines is None else bad_lines
    for file, raw in open_files(files):
        with reading_errors(file.name):
            stream = unpacked(raw, file.packings)
            if file.has_mark:
                stream.read(len(UTF8_MARK))
            n_seen = 0
            for piece in _pieces_of(file, raw, stream, reading, bad_lines):
                yield piece
                on_read(raw.tell() - n_seen)
                n_seen = raw.tell()


def words_of(text: str) -> list[str]:
    """Return the words of a text, which are separated by white space.

    A word longer than `LONGEST_WORD` becomes several of that length and a rest, so that no endless
    word has to be held whole.
    """
    words = text.split()
    if len(text) <= LONGEST_WORD:
        return words
    return [
        word[begin : begin + LONGEST_WORD]
        for word in words
        for begin in range(0, len(word), LONGEST_WORD)
    ]


def count_words(piece: Piece) -> int:
    """Return a piece's number of words plus line ends, as the words tokenizer counts them."""
    return len(words_of(piece.text)) + count_line_ends(piece.text) + ends_inside_line(piece)


def count_line_ends(text: str) -> int:
    """Return the number of line ends: line feeds, carriage returns, or the two together."""
    n_line_ends = text.count("\n")
    if "\r" in text:
        n_line_ends += text.count("\r") - text.count("\r\n")
    return n_line_ends


def ends_inside_line(piece: Piece) -> bool:
    """Return whether the piece ends a document without a line end; its end counts as one."""
    return piece.ends_document and bool(piece.text) and not piece.text.endswith(("\n", "\r"))


def _pieces_of(
    file: TextFile, raw: IO[bytes], stream: IO[bytes], reading: Reading, bad_lines: BadLines
) -> Iterator[Piece]:
    """Yield the pieces of a file; the place of `raw` says how much has been read."""
    texts: Iterator[str]
    match file.format:
        case "text" | "raw":
            yield from _cut_up(_decoded(stream, file, reading))
            return
        case "jsonl":
            texts = read_texts(
                stream,
                printable(file.name),
                text_field=reading.text_field,
                bad_lines=bad_lines,
                may_hold_nul=reading.as_bytes,
            )
        case form:
            n_bytes = file.n_bytes
            texts = read_table(
                file.path,
                file.name,
                form=form,
                column=reading.text_field,
                bad_rows=bad_lines,
                may_hold_nul=reading.as_bytes,
                on_share=lambda share: raw.seek(int(share * n_bytes)),
            )
    for text in texts:
        symbols = text.encode().decode("latin-1") if reading.as_bytes else text
        if len(symbols) <= PIECE_BYTES:
            yield Piece(symbols, ends_document=True)
        else:
            starts = range(0, len(symbols), PIECE_BYTES)
            yield from _cut_up(symbols[start : start + PIECE_BYTES] for start in starts)


def _decoded(stream: IO[bytes], file: TextFile, reading: Reading) -> Iterator[str]:
    """Yield the characters of a file, block by block; refuse what is no text."""
    may_hold_nul = reading.as_bytes or file.format == "raw"
    decoder = codecs.getincrementaldecoder("latin-1" if reading.as_bytes else "utf-8")()
    instead = ", or read it with --tokenizer bytes" if reading.chooses_tokenizer else ""
    n_read = len(UTF8_MARK) if file.has_mark else 0
    while True:
        block = stream.read(PIECE_BYTES)
        n_pending = len(decoder.getstate()[0])
        if not may_hold_nul and 0 in block:
            raise InputError(
                f"{printable(file.name)}: a NUL at byte {n_read + block.index(0)}, which no text "
                "has: mend it, or read it as it is with --format raw"
            )
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{printable(file.name)}: not UTF-8 at byte {n_read - n_pending + error.start} "
                f"({error.reason}); convert it (iconv -f LATIN1 -t UTF-8, if it is Latin-1)"
                f"{instead}"
            ) from None
        if not block:
            return
        n_read += len(block)


def _cut_up(blocks: Iterable[str]) -> Iterator[Piece]:
    """Yield the pieces of one document, cut at places that no id depends on."""
    rest = ""
    for block in blocks:
        rest += block
        if block and (cut := _cut(rest)):
            yield Piece(rest[:cut], ends_document=False)
            rest = rest[cut:]
    yield Piece(rest, ends_document=True)


def _cut(text: str) -> int:
    """Return the length of the part of `text` that can be cut off before more is read, or 0."""
    for up_to_last_cut in _UP_TO_LAST_CUT:
        if match := up_to_last_cut.match(text):
            return match.end()
    # Text without a space that is longer than a piece is cut all the same, so that memory stays
    # bounded. A character stays behind so that the last piece of a document is not empty.
    if len(text) <= PIECE_BYTES:
        return 0
    return len(text) - 2 if text.endswith("\r\n") else len(text) - 1
