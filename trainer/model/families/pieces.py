"""A segment's rows cut where documents start, for models that cannot reset their state inside one.

B streams · T tgt_len · P pieces · X tokens of the longest piece.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.memory_tree import M, forget_streams, leaves, rebuilt
from trainer.protocol import Segment


class Pieces(NamedTuple):
    """The documents, or parts of them, in a segment: each is a row of its own, read from scratch.

    The first piece of a row goes on from the row's memory, unless a document starts there.
    """

    piece_BT: Tensor
    """The piece that holds each position; padding belongs to the row's last piece."""
    place_BT: Tensor
    """Each position's place in its piece."""
    row_P: Tensor
    """The row that each piece is of."""
    from_PX: Tensor
    """The position in its row of each of a piece's tokens; any where it has no more tokens."""
    lengths_P: Tensor
    is_new_P: Tensor
    """True for a piece that begins with the start of a document."""

    def rows(self, x: Tensor) -> Tensor:
        """Return the pieces `[P, X, …]` of rows `[B, T, …]`."""
        return x[self.row_P[:, None], self.from_PX]

    def joined(self, x: Tensor) -> Tensor:
        """Return the rows `[B, T, …]` of pieces `[P, X, …]`."""
        return x[self.piece_BT, self.place_BT]

    def before(self, memory: M, *, unread: M) -> M:
        """Return what each piece goes on from; `unread` is memory of one stream that is empty."""
        return forget_streams(_rows(memory, self.row_P), ~self.is_new_P, unread=unread)

    def after(self, memory: M) -> M:
        """Return the rows' memory, which is that of their last pieces."""
        return _rows(memory, self.piece_BT[:, -1])


def cut(segment: Segment) -> Pieces:
    """Return the pieces of a segment that has `starts_BT`. The device is waited for."""
    assert segment.starts_BT is not None
    n_rows, tgt_len = segment.tokens_BT.shape
    places_T = torch.arange(tgt_len, device=segment.tokens_BT.device)
    is_real_BT = places_T < segment.lengths_B[:, None]
    is_new_BT = (segment.starts_BT == places_T) & is_real_BT
    begins_BT = is_new_BT | (places_T == 0)
    piece_BT = begins_BT.flatten().cumsum(0).view(n_rows, tgt_len) - 1
    row_P, begin_P = begins_BT.nonzero(as_tuple=True)
    lengths_P = torch.zeros_like(row_P).index_add(
        0, piece_BT.flatten(), is_real_BT.flatten().to(row_P.dtype)
    )
    places_X = places_T[: max(1, int(lengths_P.max()))]
    return Pieces(
        piece_BT=piece_BT,
        place_BT=(places_T - begin_P[piece_BT]).clamp_max(len(places_X) - 1),
        row_P=row_P,
        from_PX=(begin_P[:, None] + places_X).clamp_max(tgt_len - 1),
        lengths_P=lengths_P,
        is_new_P=is_new_BT[row_P, begin_P],
    )


def _rows(memory: M, rows: Tensor) -> M:
    return rebuilt(
        memory,
        {name: leaf[rows] if isinstance(leaf, Tensor) else leaf for name, leaf in leaves(memory)},
    )
