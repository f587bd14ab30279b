"""Making segments from spans of a text: the one place where rows are cut and padded.

B rows · T tgt_len.
"""

from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from trainer.data.pieces import PieceSpans
from trainer.data.positions import Ints, Spans
from trainer.protocol import IGNORED, Segment


class Text(Protocol):
    """Ids with the places where documents start, such as a `trainer.data.corpus.Split`."""

    def take(self, places: Ints) -> npt.NDArray[np.uint16] | npt.NDArray[np.uint32]:
        """Return the ids at some places, in their shape."""
        ...

    @property
    def document_starts(self) -> Ints:
        """Return the positions at which documents start, ascending; the first is 0."""
        ...


def make_segment(
    text: Text,
    spans: Spans | PieceSpans,
    *,
    tgt_len: int,
    cutoffs: tuple[int, ...],
    cut_documents: bool,
    cut_seam: bool = False,
) -> Segment:
    """Return a segment with a span per row.

    Rows are padded on the right to `tgt_len`; the target of a pad is `IGNORED`.

    Args:
        text: the tokens.
        spans: one per row.
        tgt_len: T.
        cutoffs: the cutoffs of the model's adaptive softmax.
        cut_documents: whether memory ends at a document's start.
        cut_seam: whether memory ends where a span goes from its range's end to the start, or from
            a piece to another.
    """
    pairs_BT = spans.pairs(tgt_len)
    starts_BT = _starts(text, spans, pairs_BT, cut_documents=cut_documents, cut_seam=cut_seam)
    is_pad_BT = np.arange(tgt_len) >= spans.lengths_B[:, None]
    pairs_BT[is_pad_BT] = 0
    tokens_BT = text.take(pairs_BT).astype(np.int64)
    targets_BT = text.take(pairs_BT + 1).astype(np.int64)
    tokens_BT[is_pad_BT] = 0
    targets_BT[is_pad_BT | ~spans.scored_B[:, None]] = IGNORED
    return Segment(
        tokens_BT=torch.from_numpy(tokens_BT),
        targets_BT=torch.from_numpy(targets_BT),
        lengths_B=torch.from_numpy(spans.lengths_B),
        starts_BT=starts_BT,
        token_clusters=clusters_of(tokens_BT, cutoffs),
        target_clusters=clusters_of(targets_BT, cutoffs),
        n_tokens=int(spans.lengths_B[spans.scored_B].sum()),
        whole=bool((spans.lengths_B == tgt_len).all()),
    )


def one_row(
    tokens_T: npt.NDArray[np.int64], targets_T: npt.NDArray[np.int64], *, cutoffs: tuple[int, ...]
) -> Segment:
    """Return a segment of one row, without padding: T tokens and as many targets."""
    return Segment(
        tokens_BT=torch.from_numpy(tokens_T[None]),
        targets_BT=torch.from_numpy(targets_T[None]),
        lengths_B=torch.tensor([len(tokens_T)]),
        starts_BT=None,
        token_clusters=clusters_of(tokens_T, cutoffs),
        target_clusters=clusters_of(targets_T, cutoffs),
        n_tokens=int((targets_T != IGNORED).sum()),
        whole=True,
    )


def clusters_of(ids_BT: np.ndarray, cutoffs: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Return per cluster the flat positions of its ids; the host knows them without the device."""
    if not cutoffs:
        return ()
    borders = pairwise((0, *cutoffs, np.iinfo(np.int64).max))  # `IGNORED` is below all
    lists = (np.flatnonzero((ids_BT >= low) & (ids_BT < high)) for low, high in borders)
    return tuple(map(torch.from_numpy, lists))


def _starts(
    text: Text,
    spans: Spans | PieceSpans,
    pairs_BT: Ints,
    *,
    cut_documents: bool,
    cut_seam: bool,
) -> torch.Tensor | None:
    """Return `Segment.starts_BT`; None if no span has a start at which memory is cut."""
    places_T = np.arange(pairs_BT.shape[1])
    is_start_BT = np.zeros(pairs_BT.shape, bool)
    if cut_documents:
        newest_BT = np.searchsorted(text.document_starts, pairs_BT, side="right") - 1
        is_start_BT |= text.document_starts[newest_BT] == pairs_BT
    if cut_seam:
        is_start_BT |= spans.seams(pairs_BT)
    is_start_BT &= places_T < spans.lengths_B[:, None]
    if not is_start_BT.any():
        return None
    marks_BT = np.where(is_start_BT, places_T, -1)
    return torch.from_numpy(np.maximum.accumulate(marks_BT, axis=1))
