"""Which split each piece of a text belongs to, when one text becomes train, valid and test."""

from collections.abc import Iterable, Iterator, Mapping

from trainer.data.text import Piece
from trainer.errors import InputError

SPLITS = ("train", "valid", "test")
Routed = Iterator[tuple[str, Piece]]


def parse_shares(split: str) -> dict[str, float]:
    """Shares of train, valid and optionally test from text such as `98,1,1`.

    Raises:
        InputError: they are not two or three positive numbers.
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


def by_document(pieces: Iterable[Piece], shares: Mapping[str, float]) -> Routed:
    """Whole documents, each to the split that is furthest behind its share of the text so far.

    So the first documents open one split each, and the same text is always split the same way.
    """
    filled = dict.fromkeys(shares, 0.0)
    name = next(iter(shares))
    for piece in pieces:
        yield name, piece
        filled[name] += len(piece.text) / shares[name]
        if piece.ends_document:
            name = min(filled, key=lambda name: filled[name])


def by_position(
    pieces: Iterable[Piece],
    shares: Mapping[str, float],
    *,
    n_characters: int,
    whole_lines: bool,
) -> Routed:
    """The text in order, cut where each split's share of `n_characters` ends.

    Args:
        pieces: the text.
        shares: of each split, in order.
        n_characters: length of the text.
        whole_lines: cut at the first line end from there on, not at the very character.
    """
    names = list(shares)
    ends = _share_ends(shares, n_characters)
    position = 0
    for text, ends_document in pieces:
        while ends and position + len(text) >= ends[0]:
            cut = ends[0] - position
            if whole_lines:
                # find gives -1, and so a cut of 0, when the line ends in a later piece.
                cut = text.find("\n", max(cut - 1, 0)) + 1
            if cut <= 0:
                break
            yield names[0], Piece(text[:cut], ends_document=True)
            text = text[cut:]
            position += cut
            del names[0], ends[0]
        if text:
            yield names[0], Piece(text, ends_document)
        position += len(text)


def _share_ends(shares: Mapping[str, float], n_characters: int) -> list[int]:
    # Every split but the last ends at a place; the last one takes what is left.
    whole = sum(shares.values())
    parts = list(shares.values())
    return [int(n_characters * sum(parts[: i + 1]) / whole) for i in range(len(parts) - 1)]
