"""Encoding a whole document with a tokenizer in constant memory, window by window.

Many tokenizers treat the ends of a text differently from its inside: they put a space before it,
strip it, or merge what a cut keeps apart. So every piece is encoded with some text around it. A
token that two windows share is taken once: by the piece in which it begins. Two windows must cut
the text around their common border into the same tokens; otherwise they are joined and encoded
again as one.

With byte-pair encoding a sequence of tokens is the encoding of the whole text if every neighbouring
pair of tokens is the encoding of that pair's text. The pair at a border is found in both windows.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Encoding

from trainer.data.text.pieces import Piece
from trainer.data.text.recutting import Window, windows
from trainer.data.vocabulary.protocol import Ids
from trainer.errors import InputError

#: Characters of text around a piece, and the distance from a border within which tokens must agree.
REACH, AGREEING = 512, 256
#: The most characters that are encoded as one where windows do not agree.
LONGEST = 1 << 20
# Enough work for all cores at the same time, but little memory beside the interpreter's.
_BATCH_CHARACTERS, _BATCH_PIECES = 1 << 21, 1 << 12

#: A function that encodes texts with `offsets`, or faster without them.
Encode = Callable[[Sequence[str], bool], Sequence[Encoding]]
_Token = tuple[int, int, int]


def stitched(pieces: Iterable[Piece], encode: Encode, *, end_id: int | None) -> Iterator[Ids]:
    """Yield an array of ids for each piece of documents; the last one of each ends with `end_id`.

    Raises:
        InputError: the tokens of a document depend on text farther away than `LONGEST`.
    """
    open_part: _Part | None = None  # waits for the window on its right
    for batch in _batches(windows(pieces, reach=REACH)):
        for part in _encoded(batch, encode):
            if open_part is None:
                open_part = part
            elif _agree(open_part, part):
                yield from open_part.ids(end_id)
                open_part = part
            else:
                window = open_part.window.joined(part.window)
                if len(window.text) > LONGEST:
                    raise InputError(_too_long(window))
                open_part = next(_encoded([window], encode))
            if open_part.window.ends[-1]:
                yield from open_part.ids(end_id)
                open_part = None


@dataclass(frozen=True)
class _Part:
    """A window with its tokens; it takes those from `first` to before `last`."""

    window: Window
    encoding: Encoding
    all_ids: list[int]
    first: int
    last: int

    def ids(self, end_id: int | None) -> Iterator[Ids]:
        """Yield an array for each of the window's pieces; the first array has all the ids."""
        found = self.all_ids[self.first : self.last]
        for ends_document in self.window.ends:
            has_end = ends_document and self.window.text and end_id is not None
            yield np.asarray([*found, end_id] if has_end else found, np.uint32)
            found = []

    def tokens(self, index: int, *, border: int) -> tuple[list[_Token], list[_Token]]:
        """Return the tokens before and from `index`, outwards, that lie within reach of `border`.

        A token is given as its id, begin and end; the places are counted from the border.
        """
        before, after = [], []
        for i in range(index - 1, -1, -1):
            token = self._token(i, border)
            if token[1] < -AGREEING:
                break
            before.append(token)
        for i in range(index, len(self.all_ids)):
            token = self._token(i, border)
            if token[2] > AGREEING:
                break
            after.append(token)
        return before, after

    def _token(self, i: int, border: int) -> _Token:
        begin, end = _span(self.encoding, i)
        return self.all_ids[i], begin - border, end - border


def _encoded(batch: Sequence[Window], encode: Encode) -> Iterator[_Part]:
    has_neighbour = [bool(window.before or window.after) for window in batch]
    # Offsets, which cost time, are needed only where a document was cut.
    alone = [w.whole for w, offsets in zip(batch, has_neighbour, strict=True) if not offsets]
    cut = [w.whole for w, offsets in zip(batch, has_neighbour, strict=True) if offsets]
    encodings = {False: iter(encode(alone, False)), True: iter(encode(cut, True))}
    for window, offsets in zip(batch, has_neighbour, strict=True):
        encoding = next(encodings[offsets])
        first, last = 0, len(encoding)
        if window.before:
            first = _first_from(len(window.before), encoding)
        if window.after:
            last = _first_from(len(window.before) + len(window.text), encoding)
        yield _Part(window, encoding, encoding.ids, first, max(first, last))


def _first_from(place: int, encoding: Encoding) -> int:
    """Return the index of the first token that begins at `place` or after it."""
    return bisect_left(range(len(encoding)), place, key=lambda i: _span(encoding, i)[0])


def _span(encoding: Encoding, i: int) -> tuple[int, int]:
    """Return the places in the text at which token `i` begins and ends."""
    span = encoding.token_to_chars(i)
    assert span is not None, "a token of another sequence"
    return span


def _agree(left: _Part, right: _Part) -> bool:
    """Return whether both windows have the same tokens around their common border."""
    border = len(left.window.before) + len(left.window.text)
    before, after = left.tokens(left.last, border=border)
    if (before, after) != right.tokens(right.first, border=len(right.window.before)):
        return False
    nothing_before = left.last == right.first == 0
    nothing_after = left.last == len(left.all_ids) and right.first == len(right.all_ids)
    return bool(before or nothing_before) and bool(after or nothing_after)


def _batches(parts: Iterable[Window]) -> Iterator[list[Window]]:
    batch: list[Window] = []
    n_characters = 0
    for window in parts:
        batch.append(window)
        n_characters += len(window.text)
        if n_characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_PIECES:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


def _too_long(window: Window) -> str:
    return (
        f"the tokens of {window.text[:24]!r} depend on text more than {LONGEST:,} characters away, "
        "so that a longer document cannot be read in pieces with this tokenizer: cut the "
        "documents (JSON lines hold one each), or take another tokenizer"
    )
