"""Making segments from spans of a split: the one place where rows are cut and padded.

B rows · T tgt_len.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from trainer.data.corpus import Split
from trainer.protocol import IGNORED, Segment

Ints = npt.NDArray[np.int64]


class Spans(NamedTuple):
    """A run of (input, target) pairs of a split for each row.

    A span lies in a range of pairs; at the range's end it goes on from the range's start.
    """

    begins_B: Ints
    """First pair of each span."""
    lengths_B: Ints
    """Pairs of each span; a row may have none."""
    scored_B: npt.NDArray[np.bool_]
    """True if the span's targets count; those of text that only warms a memory do not."""
    lows_B: Ints
    """First pair of each range."""
    highs_B: Ints
    """The pair after the last of each range."""


class _Pieces(NamedTuple):
    """A part of each span that is contiguous in the split, with its place in the row."""

    begins_B: Ints
    lengths_B: Ints
    places_B: Ints


def _pieces(spans: Spans) -> Iterator[_Pieces]:
    begins_B, left_B, places_B = spans.begins_B, spans.lengths_B, np.zeros_like(spans.begins_B)
    while left_B.any():
        lengths_B = np.minimum(left_B, spans.highs_B - begins_B)
        yield _Pieces(begins_B, lengths_B, places_B)
        begins_B, left_B, places_B = spans.lows_B, left_B - lengths_B, places_B + lengths_B


def make_segment(
    split: Split,
    spans: Spans,
    *,
    tgt_len: int,
    cutoffs: tuple[int, ...],
    cut_documents: bool,
    cut_seam: bool = False,
) -> Segment:
    """Return a segment with a span per row, padded on the right to `tgt_len`, targets ignored.

    Args:
        split: the tokens.
        spans: one per row.
        tgt_len: T.
        cutoffs: the cutoffs of the model's adaptive softmax.
        cut_documents: whether memory ends at a document's start.
        cut_seam: whether memory ends where a span goes from its range's end to the start.
    """
    pairs_BT = spans.begins_B[:, None] + np.arange(tgt_len)
    wraps_B = spans.begins_B + spans.lengths_B > spans.highs_B
    if wraps_B.any():
        low_W1, high_W1 = spans.lows_B[wraps_B, None], spans.highs_B[wraps_B, None]
        pairs_BT[wraps_B] = low_W1 + (pairs_BT[wraps_B] - low_W1) % (high_W1 - low_W1)
    is_pad_BT = np.arange(tgt_len) >= spans.lengths_B[:, None]
    pairs_BT[is_pad_BT] = 0
    tokens_BT = np.take(split.tokens, pairs_BT).astype(np.int64)
    targets_BT = np.take(split.tokens, pairs_BT + 1).astype(np.int64)
    tokens_BT[is_pad_BT] = 0
    targets_BT[is_pad_BT | ~spans.scored_B[:, None]] = IGNORED
    return Segment(
        tokens_BT=torch.from_numpy(tokens_BT),
        targets_BT=torch.from_numpy(targets_BT),
        lengths_B=torch.from_numpy(spans.lengths_B),
        starts_BT=_starts(split, spans, tgt_len, cut_documents=cut_documents, cut_seam=cut_seam),
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
    split: Split, spans: Spans, tgt_len: int, *, cut_documents: bool, cut_seam: bool
) -> torch.Tensor | None:
    """Return `Segment.starts_BT`; None if no span has a start at which memory is cut."""
    marks_BT = np.full((len(spans.begins_B), tgt_len), -1, np.int64)
    for begins_B, lengths_B, places_B in _pieces(spans):
        if cut_documents:
            rows, starts = _starts_between(split.document_starts, begins_B, begins_B + lengths_B)
            places = starts - begins_B[rows] + places_B[rows]
            marks_BT[rows, places] = places
        if cut_seam:
            rows = np.flatnonzero((begins_B == spans.lows_B) & (lengths_B > 0))
            marks_BT[rows, places_B[rows]] = places_B[rows]
    if (marks_BT < 0).all():
        return None
    return torch.from_numpy(np.maximum.accumulate(marks_BT, axis=1))


def _starts_between(starts: Ints, begins_B: Ints, ends_B: Ints) -> tuple[Ints, Ints]:
    """Return the starts from each begin up to each end, and the row that each belongs to."""
    firsts_B, lasts_B = np.searchsorted(starts, (begins_B, ends_B))
    counts_B = lasts_B - firsts_B
    rows = np.repeat(np.arange(len(counts_B)), counts_B)
    nth = np.arange(len(rows)) - (np.cumsum(counts_B) - counts_B)[rows]
    return rows, starts[firsts_B[rows] + nth]
