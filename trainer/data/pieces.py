"""Pieces of a text, documents or parts of long ones, and the order in which an epoch reads them.

A pair (input, target) belongs to the document of its input, so the pair whose target begins the
next document is the last of its own document. A document of more than `piece_tokens` pairs is cut
into pieces of as many, of which the last may be shorter; any other document is one piece. Every
pair is in exactly one piece, and no pair joins two pieces.

Nothing here grows with the number of documents but the text's own list of them, which is mapped
from a file. B streams · T tokens of a span · R pieces · G groups of pieces · K pieces of a group.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.data.guard import FIX
from trainer.data.shuffle import Ints, Shuffle
from trainer.errors import CorpusError

#: The most groups of an epoch's order: where each begins takes two megabytes.
_MOST_GROUPS = 1 << 18
#: The fewest pieces of a group but the last.
_LEAST_PIECES = 64
#: The most documents of which the start is kept in memory, to find others from there.
_MOST_MARKS = 1 << 16
#: Pieces of which the lengths are added up at once.
_AT_ONCE = 1 << 16


class PieceSpans(NamedTuple):
    """The pairs that each row reads from one piece after the other."""

    pairs_BT: Ints
    """Those after a row's length mean nothing."""
    lengths_B: Ints
    """Pairs of each span; a row may have none."""
    scored_B: npt.NDArray[np.bool_]
    """True if the span's targets count."""
    borders_BT: npt.NDArray[np.bool_]
    """True where a piece begins."""

    @property
    def begins_B(self) -> Ints:  # noqa: N802  # a shape suffix
        """Return the first pair of each span."""
        return self.pairs_BT[:, 0]

    def pairs(self, tgt_len: int) -> Ints:
        """Return the first `tgt_len` pairs of each span, `[B, tgt_len]`."""
        return self.pairs_BT[:, :tgt_len].copy()

    def seams(self, pairs_BT: Ints) -> npt.NDArray[np.bool_]:
        """Return where the text before these pairs, which are the span's, is another piece's."""
        return self.borders_BT[:, : pairs_BT.shape[1]]


class Runs(NamedTuple):
    """Runs of consecutive pairs."""

    begins_R: Ints
    lengths_R: Ints


@dataclass(frozen=True, kw_only=True, eq=False)
class Pieces:
    """The pieces of a text, each with a number.

    Piece d, up to the number of documents, is the beginning of document d. The others have a number
    for each multiple of `piece_tokens` among the pairs: the r-th one after the first pair of a
    document stands for the document's part r, from 0 on. Every part has one, for a document has
    at least as many multiples as further parts; the piece of a multiple that is left over is empty.

    Args:
        n_pairs: P.
        document_starts: positions at which documents start, ascending; the first is 0.
        piece_tokens: the most pairs of a piece; None leaves documents whole.
    """

    n_pairs: int
    document_starts: Ints
    piece_tokens: int | None
    _stride: int = field(init=False, repr=False)
    _marks: Ints = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Keep the start of every document whose number is a multiple of a power of two."""
        stride = 1 << (len(self.document_starts) // _MOST_MARKS).bit_length()
        object.__setattr__(self, "_stride", stride)
        object.__setattr__(self, "_marks", np.array(self.document_starts[::stride]))

    @property
    def n(self) -> int:
        """Return the number of pieces, empty ones included."""
        n_multiples = 0 if self.piece_tokens is None else (self.n_pairs - 1) // self.piece_tokens
        return len(self.document_starts) + n_multiples

    def runs(self, numbers_R: Ints) -> Runs:
        """Return the pairs of some pieces."""
        most = self.piece_tokens
        if most is None:
            begins_R, ends_R = self._documents(numbers_R)
            return Runs(begins_R, np.maximum(ends_R - begins_R, 0))
        multiples_R = numbers_R - len(self.document_starts) + 1
        is_later_R = multiples_R > 0
        documents_R = numbers_R.copy()
        documents_R[is_later_R] = self._documents_before(multiples_R[is_later_R] * most)
        begins_R, ends_R = self._documents(documents_R)
        begins_R += np.where(is_later_R, multiples_R - begins_R // most, 0) * most
        return Runs(begins_R, np.clip(ends_R - begins_R, 0, most))

    def _documents_before(self, pairs_R: Ints) -> Ints:
        """Return the last document that starts before each pair.

        A plain search in the starts of 10 million documents takes six times as long.
        """
        found_R = (np.searchsorted(self._marks, pairs_R, side="left") - 1) * self._stride
        step, last = self._stride // 2, len(self.document_starts) - 1
        while step:
            farther_R = np.minimum(found_R + step, last)
            is_before_R = np.take(self.document_starts, farther_R) < pairs_R
            found_R = np.where(is_before_R, farther_R, found_R)
            step //= 2
        return found_R

    def _documents(self, documents_R: Ints) -> tuple[Ints, Ints]:
        """Return the first pair of some documents, and the pair after the last: P at most.

        The last token of a text, which may be a document, is the input of no pair.
        """
        starts, n_pairs = self.document_starts, self.n_pairs
        begins_R = np.take(starts, documents_R)
        ends_R = np.take(starts, documents_R + 1, mode="clip")
        ends_R[documents_R == len(starts) - 1] = n_pairs
        return np.minimum(begins_R, n_pairs), np.minimum(ends_R, n_pairs)


@dataclass(frozen=True, kw_only=True, eq=False)
class PieceOrder:
    """The orders in which epochs read pieces, each drawn from (seed, epoch).

    The pairs of an epoch stand one after the other in the order of their pieces; a place is a
    pair's index among them. The pieces of an order stand in groups, and it is known where each
    group begins.
    """

    pieces: Pieces
    seed: int

    @property
    def group_pieces(self) -> int:
        """Return K, the pieces of every group but the last."""
        return max(_LEAST_PIECES, -(-self.pieces.n // _MOST_GROUPS))

    def spans(self, epoch: int, places_B: Ints, lengths_B: Ints, *, width: int) -> PieceSpans:
        """Return what rows read that begin at some places of an epoch, T = `width`.

        Args:
            epoch: counted from 0.
            places_B: the first place of each row.
            lengths_B: the places that each row reads; those after them mean nothing.
            width: the most places of a row.
        """
        froms_G = _froms(self, epoch)
        last = self.pieces.n_pairs - 1
        places_BT = np.minimum(places_B[:, None] + np.arange(width), last)
        ends_B2 = np.searchsorted(froms_G, places_BT[:, [0, -1]], side="right")
        groups = {group for first, end in ends_B2.tolist() for group in range(first - 1, end)}
        begins_R, froms_R = _pieces_of(self, epoch, tuple(sorted(groups)))
        # Of pieces that begin at the same place all but the last are empty.
        index_BT = np.searchsorted(froms_R, places_BT, side="right") - 1
        into_BT = places_BT - froms_R[index_BT]
        is_scored_B = np.ones(len(places_B), bool)
        return PieceSpans(
            begins_R[index_BT] + into_BT, lengths_B, is_scored_B, borders_BT=into_BT == 0
        )

    def runs(self, epoch: int, orders_R: Ints) -> Runs:
        """Return some of an epoch's pieces, counted from 0; past all of them, the last."""
        n = self.pieces.n
        return self.pieces.runs(Shuffle(n, (self.seed, epoch))(np.minimum(orders_R, n - 1)))


@lru_cache(maxsize=4)  # epochs of which steps are read, or read ahead: each is a pass over pieces
def _froms(order: PieceOrder, epoch: int) -> Ints:
    """Return the place at which each group of an epoch's order begins, `[G]`.

    Raises:
        CorpusError: the pieces are not the text, because its document starts were changed.
    """
    size = order.group_pieces
    n_groups, n_pairs = -(-order.pieces.n // size), order.pieces.n_pairs
    froms = np.zeros(n_groups + 1, np.int64)
    at_once = max(1, _AT_ONCE // size)
    for group in range(0, n_groups, at_once):
        end = min(n_groups, group + at_once)
        orders_R = np.arange(group * size, min(end * size, order.pieces.n))
        lengths_R = order.runs(epoch, orders_R).lengths_R
        froms[group + 1 : end + 1] = np.add.reduceat(lengths_R, range(0, len(lengths_R), size))
    places = froms.cumsum()
    if places[-1] != n_pairs:
        raise CorpusError(
            f"the documents of the train split have {places[-1]:,} tokens to read, and the split "
            f"{n_pairs:,}, so its document starts (.docs.npy) were changed: {FIX}"
        )
    return places[:-1]


@lru_cache(maxsize=8)  # slots: most steps read in the groups of the step before
def _pieces_of(order: PieceOrder, epoch: int, groups: tuple[int, ...]) -> tuple[Ints, Ints]:
    """Return first pair and place of each piece of some groups, `[R]`, in the epoch's order."""
    groups_G1, size = np.array(groups)[:, None], order.group_pieces
    orders_GK = groups_G1 * size + np.arange(size)
    begins_R, lengths_R = order.runs(epoch, orders_GK.ravel())
    lengths_GK = lengths_R.reshape(orders_GK.shape)
    froms_GK = _froms(order, epoch)[groups_G1] + lengths_GK.cumsum(axis=1) - lengths_GK
    return begins_R, froms_GK.ravel()
