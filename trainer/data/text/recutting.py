"""Cutting pieces of documents again: at the borders of words, or with text around each."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from trainer.data.text.pieces import LONGEST_WORD, Piece


class Window(NamedTuple):
    """Neighbouring pieces of one document, with some text on both sides.

    Attributes:
        before: some of the document's text before `text`; empty at the document's beginning.
        text: the pieces joined.
        after: some of the document's text after `text`; empty at the document's end.
        ends: for each piece, whether it ends the document.
    """

    before: str
    text: str
    after: str
    ends: tuple[bool, ...]

    @property
    def whole(self) -> str:
        """Return `before`, `text` and `after` joined."""
        return self.before + self.text + self.after

    def joined(self, following: "Window") -> "Window":
        """Return this window and the next one as one window."""
        text, ends = self.text + following.text, self.ends + following.ends
        return Window(self.before, text, following.after, ends)


def windows(pieces: Iterable[Piece], *, reach: int) -> Iterator[Window]:
    """Yield a window for each piece, with `reach` characters of its document on either side."""
    before = ""
    held: deque[Piece] = deque()  # the next window's piece, then later ones
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
    """Yield as many pieces of the same text, in which no word or run of white space is cut.

    A word or run of white space belongs to the piece in which it ends, so a piece may be empty. All
    pieces but a document's first begin with white space or are empty. A word longer than
    `LONGEST_WORD` becomes several of that length and a rest, so that memory is bounded.
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
    """Return the white space, and the part of the word after it that fills longest words."""
    n_blanks = len(text) - len(text.lstrip())
    return text[: n_blanks + (len(text) - n_blanks) // LONGEST_WORD * LONGEST_WORD]


def _up_to_last_word(text: str) -> str:
    """Return the text before its last word, which may go on, and before that word's white space."""
    if text[-1:].isspace():
        return text.rstrip()
    word = text.rsplit(None, 1)[-1] if text else ""
    return text[: len(text) - len(word)].rstrip()
