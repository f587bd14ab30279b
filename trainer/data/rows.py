"""Making segments from spans of a split: the one place where rows are cut and padded.

B rows · T tgt_len.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from trainer.data.corpus import Split
from trainer.protocol import IGNORED, Segment


class Span(NamedTuple):
    """A run of `length` (input, target) pairs of a split from `begin` on.

    A span lies in a range of pairs; at the range's end it goes on from the range's start.
    """

    begin: int
    length: int
    scored: bool = True
    """True if the span's targets count; those of text that only warms a memory do not."""
    low: int = 0
    """First pair of the range."""
    high: int | None = None
    """The pair after the range's last; None means the end of the split."""


class _Piece(NamedTuple):
    """A part of a span that is contiguous in the split, with its place in the row."""

    begin: int
    length: int
    place: int


def _pieces(span: Span, n_pairs: int) -> Iterator[_Piece]:
    end = n_pairs if span.high is None else span.high
    place = 0
    while place < span.length:
        begin = span.low + (span.begin - span.low + place) % (end - span.low)
        piece = _Piece(begin, min(span.length - place, end - begin), place)
        yield piece
        place += piece.length


def make_segment(
    split: Split,
    spans: Sequence[Span],
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
    n_rows, n_pairs = len(spans), split.n_tokens - 1
    tokens_BT = np.zeros((n_rows, tgt_len), np.int64)
    targets_BT = np.full((n_rows, tgt_len), IGNORED, np.int64)
    for row, span in enumerate(spans):
        for begin, length, place in _pieces(span, n_pairs):
            text = split.tokens[begin : begin + length + 1]
            tokens_BT[row, place : place + length] = text[:-1]
            if span.scored:
                targets_BT[row, place : place + length] = text[1:]
    lengths_B = np.array([span.length for span in spans], np.int64)
    starts_BT = _starts(split, spans, tgt_len, cut_documents=cut_documents, cut_seam=cut_seam)
    return Segment(
        tokens_BT=torch.from_numpy(tokens_BT),
        targets_BT=torch.from_numpy(targets_BT),
        lengths_B=torch.from_numpy(lengths_B),
        starts_BT=starts_BT,
        token_clusters=clusters_of(tokens_BT, cutoffs),
        target_clusters=clusters_of(targets_BT, cutoffs),
        n_tokens=sum(span.length for span in spans if span.scored),
        whole=all(span.length == tgt_len for span in spans),
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
    ids_N = ids_BT.reshape(-1)
    cluster_N = np.searchsorted(np.asarray(cutoffs), ids_N, side="right")
    cluster_N[ids_N == IGNORED] = -1
    return tuple(torch.from_numpy(np.flatnonzero(cluster_N == c)) for c in range(len(cutoffs) + 1))


def _starts(
    split: Split, spans: Sequence[Span], tgt_len: int, *, cut_documents: bool, cut_seam: bool
) -> torch.Tensor | None:
    """Return `Segment.starts_BT`; None if no span has a start at which memory is cut."""
    n_pairs = split.n_tokens - 1
    marks_BT = np.full((len(spans), tgt_len), -1, np.int64)
    for row, span in enumerate(spans):
        for begin, length, place in _pieces(span, n_pairs):
            if cut_documents:
                low, high = np.searchsorted(split.document_starts, (begin, begin + length))
                inside = split.document_starts[low:high] - begin + place
                marks_BT[row, inside] = inside
            if cut_seam and begin == span.low:
                marks_BT[row, place] = place
    if (marks_BT < 0).all():
        return None
    return torch.from_numpy(np.maximum.accumulate(marks_BT, axis=1))
