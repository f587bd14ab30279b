"""Dividing one text into the splits train, valid and test."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from trainer.data.text.pieces import Piece
from trainer.errors import InputError

SPLITS = ("train", "valid", "test")
Routed = Iterator[tuple[str, Piece]]


class Part(Protocol):
    """A part of a document: a `Piece`, or the ids of one."""

    @property
    def text(self) -> Sized:
        """Return what is measured, in characters or in ids."""
        ...

    @property
    def ends_document(self) -> bool:
        """Return whether the document ends with this part."""
        ...


_Part = TypeVar("_Part", bound=Part)

#: The part of a split's share by which the split may be too long or too short.
MOST_MISSED = 0.5
# Documents longer than this part of the smallest share are placed one by one.
_GRAIN = 64
# Rules for one document: the part of a share that it may take, and the part by which it may exceed
# the room left in its split.
_WAYS = ((0.25, 0.0), (1.0, 0.0), (1.0 + MOST_MISSED, MOST_MISSED))
# The part of a share that may be missed so that a split has many documents.
_WELL_HELD = 0.05
# The most characters that are held while a line end is looked for.
_MOST_REACH = 1 << 20
_LINE_END = re.compile(r"\r\n|\n|\r")
_SPACE = re.compile(r"\s")


def parse_shares(split: str) -> dict[str, float]:
    """Return the shares of train, valid and optionally test from a text such as `98,1,1`.

    Raises:
        InputError: the text is not two or three positive numbers.
    """
    try:
        shares = [float(share) for share in split.split(",")]
    except ValueError:
        shares = []
    if not 2 <= len(shares) <= len(SPLITS) or not all(0 < share < float("inf") for share in shares):
        raise InputError(
            f"--split {split}: not shares of train, valid and test; write for example 98,1,1"
        )
    return dict(zip(SPLITS, shares, strict=False))


@dataclass
class Sizes:
    """Lengths of a text's documents, as far as a split depends on them, in constant memory.

    Attributes:
        n_documents: the number of documents that are not empty.
        n_characters: the characters of the whole text.
        large: the characters of each document that is large compared with the smallest share, by
            the document's number.
    """

    n_documents: int = 0
    n_characters: int = 0
    large: dict[int, int] = field(default_factory=dict)


def measure(pieces: Iterable[Part], shares: Mapping[str, float]) -> Sizes:
    """Measure a text that is to be divided into `shares`."""
    sizes = Sizes()
    smallest = min(shares.values()) / sum(shares.values())
    number = n_characters = 0
    for piece in pieces:
        n_characters += len(piece.text)
        if not piece.ends_document:
            continue
        sizes.n_characters += n_characters
        sizes.n_documents += n_characters > 0
        if n_characters * _GRAIN > sizes.n_characters * smallest:
            sizes.large[number] = n_characters
        number += 1
        n_characters = 0
    # Some were large only compared with the text before them.
    least = sizes.n_characters * smallest / _GRAIN
    sizes.large = {number: size for number, size in sizes.large.items() if size > least}
    return sizes


@dataclass(frozen=True)
class Placement:
    """The splits of large documents, and the room that is left for small ones.

    Attributes:
        large: the split of each large document, by the document's number.
        room: the characters left for small documents, by split.
        came: the expected characters in the end, by split.
    """

    large: Mapping[int, str]
    room: Mapping[str, float]
    came: Mapping[str, float]


def place(sizes: Sizes, shares: Mapping[str, float]) -> Placement:
    """Place whole documents so that the shares are missed least.

    Documents are placed from the largest down. Each goes to the split that lacks most of its share
    of the text placed so far, this document included, among the splits that it fits. So every split
    gets documents of many lengths, and small documents fill what is left. A split of few documents
    says little, so a document fits only if it takes a limited part of a split's share, unless a
    higher limit holds the shares better.
    """
    for longest, overfill in _WAYS:
        placement = _placed(sizes, shares, longest=longest, overfill=overfill)
        if most_missed(shares, placement.came) <= _WELL_HELD:
            return placement
    ways = (_placed(sizes, shares, longest=most, overfill=over) for most, over in _WAYS)
    return min(ways, key=lambda way: most_missed(shares, way.came))


def _placed(
    sizes: Sizes, shares: Mapping[str, float], *, longest: float, overfill: float
) -> Placement:
    """Place documents by one rule.

    Args:
        sizes: the lengths of the documents.
        shares: the share of each split.
        longest: the largest part of a split's share that one document may take.
        overfill: the part of a split's share by which a document may exceed the room left.
    """
    whole = sum(shares.values())
    wanted = {name: share / whole * sizes.n_characters for name, share in shares.items()}
    room = dict(wanted)
    lacks = dict.fromkeys(shares, 0.0)
    placed: dict[int, str] = {}
    for number, size in sorted(sizes.large.items(), key=lambda item: (-item[1], item[0])):
        for name, share in shares.items():
            lacks[name] += share / whole * size
        fitting = [
            name
            for name in shares
            if size <= min(wanted[name] * longest, room[name] * (1 + overfill))
        ]
        name = max(fitting, key=lacks.__getitem__) if fitting else max(room, key=room.__getitem__)
        placed[number] = name
        lacks[name] -= size
        room[name] -= size
    n_small = sizes.n_characters - sum(sizes.large.values())
    free = {name: max(0.0, left) for name, left in room.items()}
    fills = n_small / (sum(free.values()) or 1.0)
    came = {name: wanted[name] - room[name] + fills * free[name] for name in shares}
    return Placement(placed, room, came)


def by_document(pieces: Iterable[_Part], placement: Placement) -> Iterator[tuple[str, _Part]]:
    """Yield whole documents in the text's order, each with its split.

    A small document goes to the split that is furthest behind in filling its room. So the same text
    is always split in the same way, and evenly from beginning to end.
    """
    room = {name: left for name, left in placement.room.items() if left > 0} or placement.room
    filled = dict.fromkeys(room, 0.0)
    number = 0
    name = ""
    for piece in pieces:
        if not name:
            name = placement.large.get(number) or min(filled, key=filled.__getitem__)
        yield name, piece
        if number not in placement.large:
            filled[name] += len(piece.text) / (room[name] or 1.0)
        if piece.ends_document:
            number, name = number + 1, ""


def by_position(
    pieces: Iterable[Piece],
    shares: Mapping[str, float],
    *,
    n_characters: int,
    whole_lines: bool,
) -> Routed:
    """Yield the text in order, cut where each split's share of `n_characters` ends.

    Args:
        pieces: the text.
        shares: the share of each split, in order.
        n_characters: length of the text.
        whole_lines: whether to cut at the next line end. If the line goes on for more than half of
            the smallest share, the cut is between two words, and the blank between them becomes the
            line end of the part before. Otherwise the cut is exact.
    """
    names = list(shares)
    ends = share_ends(shares, n_characters)
    smallest = n_characters * min(shares.values()) / sum(shares.values())
    reach = min(max(int(smallest * MOST_MISSED), 1), _MOST_REACH) if whole_lines else 0
    position = 0
    held = ""  # text since the last cut, until the next cut is known
    for piece_text, ends_document in pieces:
        text, held = held + piece_text, ""
        while ends and text and position + len(text) >= ends[0]:
            due = max(ends[0] - position, 1)
            cut = _cut_near(text, due, reach, is_whole=ends_document) if reach else due
            if cut is None:
                held = text
                break
            part, text = text[:cut], text[cut:]
            position += cut
            if reach and text[:1].isspace() and not part.endswith(("\n", "\r")):
                part, text = part + "\n", text[1:]
                position += 1
            yield names[0], Piece(part, ends_document=True)
            del names[0], ends[0]
        if text and not held:
            yield names[0], Piece(text, ends_document)
            position += len(text)


def _cut_near(text: str, due: int, reach: int, *, is_whole: bool) -> int | None:
    """Return the place to cut from `due` on; None if it depends on the text that follows.

    Args:
        text: text of one document.
        due: the place where the share ends.
        reach: the distance from `due` within which a line end is looked for.
        is_whole: whether the document ends with `text`.
    """
    line_end = _LINE_END.search(text, due - 1)
    if line_end and line_end.end() <= due + reach:
        may_be_half = line_end.group() == "\r" and line_end.end() == len(text)
        return None if may_be_half and not is_whole else line_end.end()
    if len(text) <= due + reach:
        return len(text) if is_whole else None
    space = _SPACE.search(text, due, due + reach)
    return space.start() if space else due


def share_ends(shares: Mapping[str, float], n_characters: int) -> list[int]:
    """Return where each split's share of a text ends; the last takes what is left."""
    whole = sum(shares.values())
    parts = list(shares.values())
    return [int(n_characters * sum(parts[: i + 1]) / whole) for i in range(len(parts) - 1)]


def most_missed(asked: Mapping[str, float], came: Mapping[str, float]) -> float:
    """Return the largest part of its share by which any split is too long or too short."""
    whole_asked, whole_came = sum(asked.values()), sum(came.values())
    wanted = {name: share / whole_asked * whole_came for name, share in asked.items()}
    return max(abs(came[name] - n) / max(n, 1e-9) for name, n in wanted.items())


def percents(shares: Mapping[str, float]) -> str:
    """Return shares of a whole as people write them: `98/1/1`."""
    whole = sum(shares.values()) or 1.0
    return "/".join(map(_percent, (share / whole for share in shares.values())))


def _percent(part: float) -> str:
    return f"{100 * part:.1f}".removesuffix(".0") if part >= 0.001 else f"{100 * part:.2g}"
