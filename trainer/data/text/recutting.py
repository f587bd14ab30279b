"""Pieces of documents, cut anew: at the borders of words, or with the text around them."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from trainer.data.text.pieces import LONGEST_WORD, Piece


class Window(NamedTuple):
    """Pieces of one document, and the text on both sides of them.

    Attributes:
        before: what the document has before `text`, some of it; empty where it begins.
        text: the pieces together.
        after: what it has after them, some of it; empty where it ends.
        ends: of each piece, whether it ends the document.
    """

    before: str
    text: str
    after: str
    ends: tuple[bool, ...]

    @property
    def whole(self) -> str:
        """All of its text."""
        return self.before + self.text + self.after

    def joined(self, following: "Window") -> "Window":
        """This window and the next one as one."""
        text, ends = self.text + following.text, self.ends + following.ends
        return Window(self.before, text, following.after, ends)


def windows(pieces: Iterable[Piece], *, reach: int) -> Iterator[Window]:
    """Yield a window for each piece, with `reach` characters of its document on either side."""
    before = ""
    held: deque[Piece] = deque()  # the next window's piece, and what has been read after it
    n_held = 0
    for piece in pieces:
        held.append(piece)
        n_held += len(piece.text)
        while held and (held[-1].ends_document or n_held - len(held[0].text) >= reach):
            text, ends_document = held.popleft()
            n_held -= len(text)
            after = "".join(following.text for following in held)[:reach]
            yield Window(before, text, after, (ends_document,))
            before = "" if ends_document else (before + text)[-reach:]


def whole_words(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield as many pieces of the same text, with no word or white space cut.

    What would be cut goes with the piece that it ends in, so a piece may be empty. All but the
    first one of a document begin with white space or are empty. What is longer than
    `LONGEST_WORD` is several words of that length and a rest, so that memory is bounded.
    """
    held: list[str] = []  # white space and the beginning of a word
    n_held = 0
    for text, ends_document in pieces:
        n_held += len(text)
        kept = text if ends_document else _up_to_last_word(text)
        if not kept and n_held > LONGEST_WORD:
            held, text = [], "".join([*held, text])
            kept = _whole_lengths(text)
        if kept or ends_document:
            yield Piece("".join([*held, kept]), ends_document)
            held = [text[len(kept) :]]
            n_held = len(held[0])
        else:
            held.append(text)
            yield Piece("", ends_document=False)


def _whole_lengths(text: str) -> str:
    """White space and as much of the word after it as is words of the greatest length."""
    n_blanks = len(text) - len(text.lstrip())
    return text[: n_blanks + (len(text) - n_blanks) // LONGEST_WORD * LONGEST_WORD]


def _up_to_last_word(text: str) -> str:
    """The text without its last word, which may go on, and the white space before it."""
    if text[-1:].isspace():
        return text.rstrip()
    word = text.rsplit(None, 1)[-1] if text else ""
    return text[: len(text) - len(word)].rstrip()
