"""Every epoch predicts every token once, however the streams are dealt out to slots and ranks."""

from collections import Counter
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from builders import streams_of, write_split
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.corpus import Split
from trainer.data.streams import Streams
from trainer.errors import InputError
from trainer.protocol import IGNORED

V = 3000


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Return a text in which every token is its own position, and so tells where it came from."""
    folder = tmp_path_factory.mktemp("streams") / "corpus"
    return write_split(folder, [range(40), range(40, 45), range(45, 200)], vocabulary_size=V)


def shortened(split: Split, n_tokens: int) -> Split:
    starts = split.document_starts[split.document_starts < n_tokens]
    return replace(split, tokens=split.tokens[:n_tokens], n_tokens=n_tokens, document_starts=starts)


def all_ranks(split: Split, *, world_size: int = 1, **options: Any) -> list[Streams]:
    return [
        streams_of(split=split, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    slots, world_size, micro = (draw(st.integers(1, 3)) for _ in range(3))
    order = draw(st.sampled_from(["same", "roll", "roll_streams", "documents"]))
    return {
        "slots": slots,
        "world_size": world_size,
        "train_batch_size": slots * world_size * micro,
        "tgt_len": draw(st.integers(1, 9)),
        "bptt_segments": draw(st.integers(1, 5)),
        "epoch_order": order,
        "piece_tokens": draw(st.none() | st.integers(1, 60)) if order == "documents" else None,
        "memory_reset": draw(st.sampled_from(["epoch", "document", "segment", "never"])),
        "seed": draw(st.integers(0, 5)),
    }


@given(layouts(), st.integers(1, 160), st.integers(0, 3))
@settings(deadline=None, max_examples=150)
def test_an_epoch_predicts_every_token_but_the_first_once(
    text: Split, layout: dict[str, Any], spare_pairs: int, epoch: int
) -> None:
    split = shortened(text, layout["train_batch_size"] + spare_pairs)
    ranks = all_ranks(split, **layout)
    per_epoch = ranks[0].steps_per_epoch
    predicted: Counter[int] = Counter()
    for data_step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
        counted = 0
        for streams in ranks:
            assert streams.epoch(data_step) == epoch
            for slot in range(streams.slots):
                segments = streams.segments(data_step, slot)
                assert len(segments) == streams.n_segments(data_step)
                for segment in segments:
                    real_BT = segment.targets_BT != IGNORED
                    # Tokens are positions: what is predicted is what comes next.
                    inputs, targets = segment.tokens_BT[real_BT], segment.targets_BT[real_BT]
                    assert (targets == inputs + 1).all()
                    assert real_BT.sum(1).tolist() == segment.lengths_B.tolist()
                    predicted.update(targets.tolist())
                    counted += segment.n_tokens
        assert counted == ranks[0].n_tokens(data_step) > 0
    assert predicted == dict.fromkeys(range(1, split.n_tokens), 1)


@given(layouts(), st.integers(1, 160), st.integers(0, 2))
@settings(deadline=None, max_examples=100)
def test_a_streams_text_does_not_depend_on_how_streams_are_dealt_out(
    text: Split, layout: dict[str, Any], spare_pairs: int, epoch: int
) -> None:
    n_streams = layout["train_batch_size"]
    split = shortened(text, n_streams + spare_pairs)
    alone = {**layout, "slots": 1, "world_size": 1}
    (whole,) = all_ranks(split, **alone)
    steps = range(epoch * whole.steps_per_epoch, (epoch + 1) * whole.steps_per_epoch)
    every = [(step, part) for step in steps for part in range(whole.n_segments(step))]
    for data_step, part in every:
        expected = whole.segment(data_step, 0, part)
        seen = []
        for streams in all_ranks(split, **layout):
            for slot in range(streams.slots):
                segment = streams.segment(data_step, slot, part)
                ids = streams.stream_ids(slot).tolist()
                seen += ids
                assert segment.tokens_BT.tolist() == expected.tokens_BT[ids].tolist()
                assert segment.targets_BT.tolist() == expected.targets_BT[ids].tolist()
                starts = None if expected.starts_BT is None else expected.starts_BT[ids]
                if segment.starts_BT is not None:
                    assert starts is not None
                    assert segment.starts_BT.tolist() == starts.tolist()
                else:
                    assert starts is None or (starts == -1).all()
        assert sorted(seen) == list(range(n_streams))


@given(layouts(), st.integers(1, 160), st.integers(0, 2))
@settings(deadline=None, max_examples=100)
def test_a_step_of_several_segments_reads_those_that_steps_of_one_read(
    text: Split, layout: dict[str, Any], spare_pairs: int, epoch: int
) -> None:
    split = shortened(text, layout["train_batch_size"] + spare_pairs)
    several, *_ = all_ranks(split, **layout)
    one, *_ = all_ranks(split, **{**layout, "bptt_segments": 1})
    number = epoch * one.steps_per_epoch
    for data_step in range(epoch * several.steps_per_epoch, (epoch + 1) * several.steps_per_epoch):
        segments = several.segments(data_step, 0)
        assert several.begins(data_step, 0).tolist() == one.begins(number, 0).tolist()
        assert several.forgets_memory(data_step) == one.forgets_memory(number)
        for segment in segments:
            expected = one.segment(number, 0)
            assert segment.tokens_BT.equal(expected.tokens_BT)
            assert segment.targets_BT.equal(expected.targets_BT)
            number += 1
        is_last = data_step + 1 == (epoch + 1) * several.steps_per_epoch
        assert len(segments) == layout["bptt_segments"] or is_last
    assert number == (epoch + 1) * one.steps_per_epoch


def test_stream_ids_run_over_slots_then_ranks_then_rows(text: Split) -> None:
    ranks = all_ranks(text, slots=2, world_size=3, train_batch_size=12, tgt_len=5)
    ids = [[r.stream_ids(slot).tolist() for r in ranks] for slot in range(2)]
    assert ids == [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]]]


def test_a_stream_goes_on_where_its_segment_before_ended(text: Split) -> None:
    (streams,) = all_ranks(text, slots=1, train_batch_size=3, tgt_len=8)
    for data_step in range(streams.steps_per_epoch - 1):
        now, then = streams.segment(data_step, 0), streams.segment(data_step + 1, 0)
        for row in range(3):
            if then.lengths_B[row]:
                assert now.targets_BT[row, -1] == then.tokens_BT[row, 0]


@given(st.permutations(range(12)), st.sampled_from(["roll", "documents"]))
@settings(deadline=None, max_examples=20)
def test_a_position_depends_on_nothing_that_was_read_before(
    text: Split, steps: list[int], epoch_order: str
) -> None:
    options: dict[str, Any] = {"slots": 1, "train_batch_size": 6, "tgt_len": 8}
    options |= {"epoch_order": epoch_order, "memory_reset": "document", "seed": 3}
    (used,) = all_ranks(text, **options)
    for data_step in steps:
        (fresh,) = all_ranks(text, **options)
        one, other = used.segment(data_step, 0), fresh.segment(data_step, 0)
        assert one.tokens_BT.equal(other.tokens_BT)
        assert one.targets_BT.equal(other.targets_BT)


def first_input(streams: Streams, epoch: int) -> int:
    return int(streams.segment(epoch * streams.steps_per_epoch, 0).tokens_BT[0, 0])


def test_every_rolled_epoch_begins_elsewhere_and_every_seed_too(text: Split) -> None:
    options: dict[str, Any] = {"slots": 1, "train_batch_size": 2, "tgt_len": 8}
    begins = {}
    for seed in (1, 2):
        (streams,) = all_ranks(text, **options, epoch_order="roll", seed=seed)
        begins[seed] = [first_input(streams, epoch) for epoch in range(6)]
        assert len(set(begins[seed])) == 6
    assert begins[1] != begins[2]
    (streams,) = all_ranks(text, **options)
    assert [first_input(streams, epoch) for epoch in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("memory_reset", ["epoch", "document", "segment", "never"])
def test_the_seam_of_a_rolled_epoch_is_a_document_start(text: Split, memory_reset: str) -> None:
    (streams,) = all_ranks(
        text,
        slots=1,
        train_batch_size=4,
        tgt_len=8,
        epoch_order="roll",
        seed=1,
        memory_reset=memory_reset,
    )
    seams = 0
    for data_step in range(streams.steps_per_epoch):
        segment = streams.segment(data_step, 0)
        for row, tokens in enumerate(segment.tokens_BT.tolist()):
            for i in range(int(segment.lengths_B[row])):
                if tokens[i] == 0:
                    seams += 1
                    cut = segment.starts_BT is not None and segment.starts_BT[row, i] == i
                    assert cut == (memory_reset != "never")
    assert seams == 1


def passages(streams: Streams, epoch: int) -> list[set[int]]:
    """Return the text of each stream in an epoch, wherever it begins."""
    steps = range(epoch * streams.steps_per_epoch, (epoch + 1) * streams.steps_per_epoch)
    read: list[set[int]] = [set() for _ in range(streams.train_batch_size)]
    for segment in (streams.segment(step, 0) for step in steps):
        for row, targets in enumerate(segment.targets_BT):
            read[row].update(targets[targets != IGNORED].tolist())
    return read


def test_streams_rolled_in_themselves_keep_their_text_and_begin_each_elsewhere(text: Split) -> None:
    options: dict[str, Any] = {"slots": 1, "train_batch_size": 4, "tgt_len": 8, "seed": 1}
    (same,) = all_ranks(text, **options)
    (rolled,) = all_ranks(text, **options, epoch_order="roll_streams")
    borders = [min(passage) - 1 for passage in passages(same, 0)]
    offsets = set()
    for epoch in range(5):
        assert passages(rolled, epoch) == passages(same, 0)
        begins = rolled.segment(epoch * rolled.steps_per_epoch, 0).tokens_BT[:, 0].tolist()
        offsets |= {begin - border for begin, border in zip(begins, borders, strict=True)}
    assert len(offsets) > 10  # of 20


@pytest.mark.parametrize("order", ["roll", "roll_streams"])
def test_an_epochs_offsets_are_those_drawn_of_seed_epoch_and_stream(
    text: Split, order: str
) -> None:
    """A run that goes on under a later state of the code must read the same text."""
    options: dict[str, Any] = {"slots": 2, "train_batch_size": 4, "tgt_len": 8, "seed": 3}
    (rolled,) = all_ranks(text, **options, epoch_order=order)
    n_pairs = text.n_tokens - 1
    for epoch, index, stream in product(range(3), range(2), range(4)):
        low, high = (i * n_pairs // 4 for i in (stream, stream + 1))
        drawn: tuple[int, ...] = (3, epoch)
        begin, first, size = low + 8 * index, 0, n_pairs
        if order == "roll_streams":
            drawn, first, size = (*drawn, stream), low, high - low
        offset = np.random.default_rng(drawn).integers(size)
        expected = text.tokens[first + (begin - first + offset) % size]
        segment = rolled.segment(epoch * rolled.steps_per_epoch + index, stream // 2)
        assert segment.tokens_BT[stream % 2, 0] == expected


def test_the_corpus_rolled_gives_streams_other_text_in_every_epoch(text: Split) -> None:
    (rolled,) = all_ranks(text, slots=1, train_batch_size=4, tgt_len=8, seed=1, epoch_order="roll")
    assert passages(rolled, 0) != passages(rolled, 1)


@pytest.mark.parametrize("memory_reset", ["epoch", "document", "segment", "never"])
def test_the_seam_of_every_stream_rolled_in_itself_is_a_document_start(
    text: Split, memory_reset: str
) -> None:
    options: dict[str, Any] = {"slots": 1, "train_batch_size": 4, "tgt_len": 8, "seed": 1}
    (same,) = all_ranks(text, **options)
    borders = [min(passage) - 1 for passage in passages(same, 0)]
    (rolled,) = all_ranks(text, **options, epoch_order="roll_streams", memory_reset=memory_reset)
    seams = 0
    for data_step in range(rolled.steps_per_epoch):
        segment = rolled.segment(data_step, 0)
        for row, tokens in enumerate(segment.tokens_BT.tolist()):
            for i in range(int(segment.lengths_B[row])):
                if tokens[i] == borders[row]:
                    seams += 1
                    cut = segment.starts_BT is not None and segment.starts_BT[row, i] == i
                    assert cut == (memory_reset != "never")
    assert seams == 4


def test_memory_is_cut_at_documents_only_where_asked(text: Split) -> None:
    options: dict[str, Any] = {"slots": 1, "train_batch_size": 1, "tgt_len": 199}
    for memory_reset in ("epoch", "segment", "never"):
        (streams,) = all_ranks(text, **options, memory_reset=memory_reset)
        assert streams.segment(0, 0).starts_BT is None
    (streams,) = all_ranks(text, **options, memory_reset="document")
    starts = streams.segment(0, 0).starts_BT
    assert starts is not None
    assert starts[0].tolist() == [0] * 40 + [40] * 5 + [45] * 154


def test_memory_is_forgotten_before_every_segment_if_so_asked(text: Split) -> None:
    (streams,) = all_ranks(text, slots=1, train_batch_size=2, tgt_len=8, memory_reset="segment")
    assert all(streams.forgets_memory(step) for step in range(3 * streams.steps_per_epoch))


@pytest.mark.parametrize(
    ("memory_reset", "forgets"), [("epoch", True), ("document", True), ("never", False)]
)
def test_memory_is_forgotten_when_an_epoch_begins(
    text: Split, memory_reset: str, forgets: bool
) -> None:
    (streams,) = all_ranks(text, slots=1, train_batch_size=2, tgt_len=8, memory_reset=memory_reset)
    begins = [step for step in range(3 * streams.steps_per_epoch) if streams.forgets_memory(step)]
    assert begins == ([i * streams.steps_per_epoch for i in range(3)] if forgets else [])


def test_too_little_text_is_refused(text: Split) -> None:
    all_ranks(shortened(text, 13), slots=1, train_batch_size=12, tgt_len=8)
    with pytest.raises(InputError, match="12 tokens, too few for 12 streams"):
        all_ranks(shortened(text, 12), slots=1, train_batch_size=12, tgt_len=8)


def test_counts_beyond_32_bits_do_not_overflow(text: Split) -> None:
    n_tokens = (1 << 62) + 1
    huge = replace(text, n_tokens=n_tokens)
    (streams,) = all_ranks(huge, slots=1, train_batch_size=60, tgt_len=150)
    assert streams.n_tokens(0) == 60 * 150
    assert streams.n_tokens(streams.steps_per_epoch - 1) > 0
