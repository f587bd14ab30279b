"""A segment says exactly what the text says: inputs, targets, lengths and where documents begin."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from builders import random_documents, write_split
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.corpus import Split
from trainer.data.rows import Spans, clusters_of, make_segment
from trainer.protocol import IGNORED, Segment

V, N = 30, 41


class Span(NamedTuple):
    """A span of one row."""

    begin: int
    length: int
    scored: bool = True
    low: int = 0
    high: int = N - 1


def joined(spans: list[Span]) -> Spans:
    begins, lengths, scored, lows, highs = map(np.array, zip(*spans, strict=True))
    return Spans(begins, lengths, scored, lows, highs)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    documents = random_documents(N, vocabulary_size=V, n_documents=9)
    # A document of one token at the very end begins at no input.
    documents[-1:] = [documents[-1][:-1], documents[-1][-1:]]
    return write_split(tmp_path_factory.mktemp("rows") / "corpus", documents, vocabulary_size=V)


def segment(
    split: Split,
    spans: list[Span],
    *,
    tgt_len: int = 6,
    cut_documents: bool = False,
    cut_seam: bool = False,
    cutoffs: tuple[int, ...] = (),
) -> Segment:
    return make_segment(
        split,
        joined(spans),
        tgt_len=tgt_len,
        cutoffs=cutoffs,
        cut_documents=cut_documents,
        cut_seam=cut_seam,
    )


@st.composite
def spans(draw: st.DrawFn) -> list[Span]:
    """Return spans of which some go around in the whole split, some in a range of it."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        low = draw(st.integers(0, N - 2))
        high = draw(st.integers(low + 1, N - 1))
        low, end = draw(st.sampled_from([(low, high), (0, N - 1)]))
        begin = draw(st.integers(low, end - 1))
        found.append(Span(begin, draw(st.integers(0, 6)), draw(st.booleans()), low, end))
    return found


def pair(span: Span, i: int) -> int:
    """Return the pair at place i of a span."""
    return span.low + (span.begin - span.low + i) % (span.high - span.low)


@given(spans())
@settings(deadline=None, max_examples=100)
def test_inputs_and_targets_are_the_texts_padded_on_the_right(
    split: Split, spans: list[Span]
) -> None:
    made = segment(split, spans)
    text = split.tokens.tolist()
    for row, span in enumerate(spans):
        pairs = [pair(span, i) for i in range(span.length)]
        pads = 6 - span.length
        assert made.tokens_BT[row].tolist() == [text[p] for p in pairs] + [0] * pads
        targets = [text[p + 1] if span.scored else IGNORED for p in pairs]
        assert made.targets_BT[row].tolist() == targets + [IGNORED] * pads
    assert made.lengths_B.tolist() == [span.length for span in spans]
    assert made.n_tokens == (made.targets_BT != IGNORED).sum()
    assert made.whole == all(span.length == 6 for span in spans)


@given(spans(), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=200)
def test_starts_are_those_of_documents_and_of_the_seam(
    split: Split, spans: list[Span], cut_documents: bool, cut_seam: bool
) -> None:
    expected = []
    for span in spans:
        starts = set(split.document_starts.tolist()) if cut_documents else set()
        starts |= {span.low} if cut_seam else set()
        newest, row = -1, []
        for i in range(6):
            if i < span.length and pair(span, i) in starts:
                newest = i
            row.append(newest)
        expected.append(row)
    made = segment(split, spans, cut_documents=cut_documents, cut_seam=cut_seam)
    if made.starts_BT is None:
        assert expected == [[-1] * 6] * len(spans)
    else:
        assert made.starts_BT.tolist() == expected


def test_a_span_that_wraps_goes_on_at_the_start(split: Split) -> None:
    made = segment(split, [Span(N - 3, 5)], cut_seam=True)
    text = split.tokens.tolist()
    assert made.tokens_BT[0, :5].tolist() == [text[-3], text[-2], text[0], text[1], text[2]]
    assert made.targets_BT[0, :5].tolist() == [text[-2], text[-1], text[1], text[2], text[3]]
    assert made.starts_BT is not None
    assert made.starts_BT.tolist() == [[-1, -1, 2, 2, 2, 2]]


def test_every_tensor_is_int64(split: Split) -> None:
    made = segment(split, [Span(0, 6)], cut_documents=True, cutoffs=(4, 9))
    tensors: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        return tensor

    made.map(keep)
    assert len(tensors) == 4 + 3 + 3
    assert {tensor.dtype for tensor in tensors} == {torch.int64}


def test_a_cluster_begins_with_the_id_of_its_cutoff_and_what_is_ignored_is_in_none() -> None:
    ids_BT = np.array([[3, 4, IGNORED, 8], [9, 0, 500, IGNORED]])
    found = clusters_of(ids_BT, (4, 9))
    assert [ids_BT.flatten()[places].tolist() for places in found] == [[3, 0], [4, 8], [9, 500]]
    assert clusters_of(ids_BT, ()) == ()


def test_a_segment_is_a_tuple_for_deepspeeds_hooks(split: Split) -> None:
    assert isinstance(segment(split, [Span(0, 6)]), tuple)
