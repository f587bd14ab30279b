"""What is read ahead is never noticed: whatever micro step is asked for, its own segment comes."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CPU, random_documents, streams_of, write_corpus, write_split
from hypothesis import given, settings
from hypothesis import strategies as st
from training import Case, checkpoint_hashes, events, losses, run_cases

from trainer.data.corpus import Split
from trainer.data.read_ahead import AHEAD, SegmentReader
from trainer.data.streams import Streams
from trainer.protocol import Segment

LAYOUT: dict[str, Any] = {
    "train_batch_size": 12,
    "tgt_len": 4,
    "slots": 2,
    "rank": 1,
    "world_size": 2,
    "cutoffs": (20, 90),
}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("read ahead") / "corpus"
    return write_split(folder, [range(40), range(40, 45), range(45, 200)], vocabulary_size=200)


def parts(segment: Segment) -> list[Any]:
    """Return all that a segment holds, its tensors on the CPU as lists."""
    flat = [part for field in segment for part in (field if isinstance(field, tuple) else (field,))]
    return [part.tolist() if isinstance(part, torch.Tensor) else part for part in flat]


#: From where on a run reads how many steps, again and again: it is rolled back, or goes on.
JUMPS = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 9)), min_size=1, max_size=4)


@given(
    st.integers(0, 5),
    JUMPS,
    st.sampled_from(["same", "roll", "documents"]),
    st.sampled_from(["epoch", "document"]),
    st.integers(1, 6),
)
@settings(max_examples=60)
def test_after_any_jump_and_over_ends_of_epochs_the_segments_asked_for_come(
    split: Split,
    n_ahead: int,
    jumps: list[tuple[int, int]],
    epoch_order: str,
    memory_reset: str,
    bptt_segments: int,
) -> None:
    order = {"epoch_order": epoch_order, "memory_reset": memory_reset}
    streams = streams_of(split=split, **LAYOUT, **order, bptt_segments=bptt_segments)
    n = streams.steps_per_epoch
    assert n == -(-5 // bptt_segments)
    reader = SegmentReader(streams, CPU, n_ahead=n_ahead)
    for begin, n_steps in jumps:
        for data_step in range(begin, begin + n_steps):
            for slot in range(streams.slots):
                expected = streams.segments(data_step, slot)
                assert len(expected) == min(bptt_segments, 5 - data_step % n * bptt_segments)
                found = reader.segments(data_step, slot)
                assert list(map(parts, found)) == list(map(parts, expected))
    reader.close()


class Recording(Streams):
    """Streams that note which micro steps are read; those of step 3 cannot be."""

    def segment(self, data_step: int, slot: int, part: int = 0) -> Segment:
        read.append(2 * data_step + slot)
        if data_step == 3:
            raise OSError("the disk is gone")
        return super().segment(data_step, slot, part)


read: list[int] = []


def test_an_error_is_raised_in_the_step_that_needs_what_cannot_be_read(split: Split) -> None:
    reader = SegmentReader(streams_of(split, kind=Recording, **LAYOUT), CPU, n_ahead=3)
    for data_step in (0, 1, 2):
        for slot in (0, 1):
            reader.segments(data_step, slot)
    with pytest.raises(OSError, match="the disk is gone"):
        reader.segments(3, 0)
    reader.segments(4, 0)
    reader.close()


@pytest.mark.parametrize("n_ahead", [0, 1, 4])
def test_no_more_is_read_than_was_asked_for_and_nothing_twice(split: Split, n_ahead: int) -> None:
    read.clear()
    reader = SegmentReader(streams_of(split, kind=Recording, **LAYOUT), CPU, n_ahead=n_ahead)
    for number in range(6):
        reader.segments(number // 2, number % 2)
        assert max(read) <= number + n_ahead
        assert set(read) >= set(range(number + 1))
    reader.close()
    assert sorted(read) == list(range(len(read)))


def test_nothing_is_left_of_a_reader_that_is_closed(split: Split) -> None:
    before = set(threading.enumerate())
    reader = SegmentReader(streams_of(split=split, **LAYOUT), CPU, n_ahead=4)
    reader.segments(0, 0)
    assert len(set(threading.enumerate()) - before) == 1
    reader.close()
    assert set(threading.enumerate()) == before


N_STREAMS, TGT_LEN, N_SEGMENTS, VOCABULARY = 8, 12, 16, 60
FLAGS = [
    "--model.cutoffs",
    "20",
    "40",
    "--train.train-micro-batch-size-per-gpu",
    "4",
    "--limits.nonfinite-steps",
    "3",
    "--checkpoint.interval-steps",
    "8",
    "--checkpoint.keep-last",
    "9",
]


def test_a_run_that_reads_ahead_is_the_run_also_after_a_rollback_and_a_resumption(
    tmp_path: Path,
) -> None:
    (ids,) = random_documents(N_STREAMS * N_SEGMENTS * TGT_LEN + 1, vocabulary_size=VOCABULARY - 1)
    ids[8 * TGT_LEN + 3 : 11 * TGT_LEN] = VOCABULARY - 1  # the poison in three steps
    text = write_corpus(tmp_path / "text", vocabulary_size=VOCABULARY, train=[ids]).path
    run_dirs = {}
    for factory in ("poisoned_model", "reading_ahead_model"):
        run_dirs[factory] = tmp_path / factory
        run_cases(
            [
                Case(
                    tmp_path / factory,
                    corpus=text,
                    flags=[
                        *FLAGS,
                        "--model.factory",
                        f"{factory}:build",
                        "--train.max-steps",
                        max_steps,
                        "--allow-change",
                        "train.max_steps",
                    ],
                )
                for max_steps in ("14", "17")
            ],
            corpus=text,
            n_ranks=1,
        )
    plain, ahead = run_dirs.values()
    assert len(events(plain, "rollback")) == len(events(plain, "resume")) == 1
    assert losses(ahead) == losses(plain)
    assert checkpoint_hashes(ahead, 17) == checkpoint_hashes(plain, 17)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_sent_what_the_cpu_reads(split: Split) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    streams = streams_of(split=split, **LAYOUT, memory_reset="document")
    reader = SegmentReader(streams, device, n_ahead=AHEAD["cuda"])
    for number in [*range(9), *range(4, 40)]:
        (found,) = reader.segments(number // 2, number % 2)
        assert found.tokens_BT.device == device
        assert parts(found) == parts(streams.segment(number // 2, number % 2))
    reader.close()
