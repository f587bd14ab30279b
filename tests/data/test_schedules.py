"""Lengths that change while a text is read: each token once an epoch, and a place that is pure."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config.lengths import Lengths, Stage, problem, stages
from trainer.data.positions import Positions


@st.composite
def readings(draw: st.DrawFn) -> Positions:
    n_streams = draw(st.integers(1, 5))
    firsts = draw(st.lists(st.integers(1, 40), unique=True, max_size=4).map(sorted))
    lengths = st.builds(Lengths, st.integers(1, 9), st.integers(0, 9), st.integers(1, 4))
    n_pairs = n_streams + draw(st.integers(0, 120))
    starts = draw(st.sets(st.integers(1, n_pairs), max_size=9))
    return Positions(
        n_pairs=n_pairs,
        n_streams=n_streams,
        stages=tuple(Stage(first, draw(lengths)) for first in (0, *firsts)),
        epoch_order=draw(st.sampled_from(["same", "roll", "roll_streams", "documents"])),
        seed=draw(st.integers(0, 3)),
        document_starts=np.array(sorted({0, *starts})),
        piece_tokens=draw(st.none() | st.integers(1, 40)),
    )


@given(readings())
@settings(deadline=None, max_examples=200)
def test_every_token_is_predicted_once_an_epoch_in_order(positions: Positions) -> None:
    """Beside a reader who remembers where it is, and begins each step there."""
    streams_S = np.arange(positions.n_streams)
    epoch, done, predicted = 0, 0, Counter[int]()
    for data_step in range(60):
        stage = [stage for stage in positions.stages if stage.first_step <= data_step][-1]
        tgt_len, _, bptt_segments = stage.lengths
        place = positions.place(data_step)
        assert place == (epoch, done, stage.lengths)
        n_segments = min(bptt_segments, -(-(positions.longest - done) // tgt_len))
        assert positions.n_segments(data_step) == n_segments
        whole, n_tokens = positions.spans(streams_S, data_step), 0
        read = {stream: list[int]() for stream in streams_S.tolist()}
        for part in range(n_segments):
            spans = positions.spans(streams_S, data_step, part)
            pairs_ST = spans.pairs(tgt_len)
            for stream, length in enumerate(np.maximum(spans.lengths_B, 0).tolist()):
                read[stream] += (pairs_ST[stream, :length] % positions.n_pairs).tolist()
                n_tokens += length
        assert positions.n_tokens(data_step) == n_tokens
        wide_ST = whole.pairs(positions.width(data_step)) % positions.n_pairs
        for stream, pairs in read.items():
            assert wide_ST[stream, : len(pairs)].tolist() == pairs
            predicted.update(pairs)
        done += n_segments * tgt_len
        if done >= positions.longest:
            assert predicted == Counter(range(positions.n_pairs))
            epoch, done, predicted = epoch + 1, 0, Counter()


@given(readings())
@settings(deadline=None, max_examples=100)
def test_epochs_grow_with_the_text_and_are_whole_where_one_begins(positions: Positions) -> None:
    told = [positions.epochs(data_step) for data_step in range(60)]
    assert told == sorted(told)
    for data_step, epochs in enumerate(told):
        epoch, done, _ = positions.place(data_step)
        assert epoch <= epochs < epoch + 1
        assert (epochs == epoch) == (done == 0)


def test_schedules_make_stages_together() -> None:
    made = stages(((0, 4), (10, 8)), ((0, 16),), ((0, 1), (5, 2), (10, 1)))
    assert made == (
        Stage(0, Lengths(4, 16, 1)),
        Stage(5, Lengths(4, 16, 2)),
        Stage(10, Lengths(8, 16, 1)),
    )


@pytest.mark.parametrize(
    ("schedule", "wrong"),
    [
        ((), "begins with [0, value]"),
        (((1, 8),), "begins with [0, value]"),
        (((0, 4), (0, 8)), "has steps that grow"),
        (((0, 4), (9, 8), (7, 2)), "has steps that grow"),
        (((0, 0), (9, 8)), "has values of at least 1"),
        (((0, 4), (9, 6)), "has 8, the field's own value, as its largest"),
        (((0, 8), (9, 4)), None),
    ],
)
def test_what_is_no_schedule_is_told(schedule: Any, wrong: str | None) -> None:
    assert problem(schedule, largest=8, least=1) == wrong
