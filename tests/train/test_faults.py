"""Flags are acted on late but never lost: a request after one step, a fault after two."""

from pathlib import Path

import pytest
import torch
from builders import lone_world, random_documents, write_split

from trainer.data.streams import Streams
from trainer.train.faults import FaultWatch, Verdict
from trainer.train.stopping import Wish


@pytest.fixture
def streams(tmp_path: Path) -> Streams:
    split = write_split(tmp_path / "c", random_documents(50, vocabulary_size=9), vocabulary_size=9)
    return Streams(split=split, train_batch_size=6, tgt_len=4, slots=3, rank=0, world_size=1)


def finite(*bad: int) -> torch.Tensor:
    """Flags of this rank's six streams, slot after slot."""
    return torch.tensor([stream not in bad for stream in range(6)])


def test_a_request_is_agreed_on_a_step_later(streams: Streams) -> None:
    watch = FaultWatch(streams, lone_world())
    wishes = [Wish.NONE, Wish.REQUEUE, Wish.STOP, Wish.STOP]
    agreed = [watch.exchange(wish, finite()).wish for wish in wishes]
    assert agreed == [Wish.NONE, *wishes[:-1]]


def test_streams_with_a_loss_that_is_not_finite_are_named_two_steps_later(streams: Streams) -> None:
    watch = FaultWatch(streams, lone_world())
    faults = [finite(1, 4), finite(), finite(0), finite(), finite()]
    named = [watch.exchange(Wish.NONE, flags).bad_streams for flags in faults]
    assert named == [[], [], [1, 4], [], [0]]


def test_after_a_rollback_nothing_is_left_of_what_was_under_way(streams: Streams) -> None:
    watch = FaultWatch(streams, lone_world())
    for _ in range(2):
        watch.exchange(Wish.REQUEUE, finite(2))
    watch.drain()
    nothing = Verdict(wish=Wish.NONE, bad_streams=[])
    assert [watch.exchange(Wish.NONE, finite()) for _ in range(3)] == [nothing] * 3


def test_streams_are_traced_to_the_ranks_that_read_them(streams: Streams) -> None:
    world_size = 3
    watches = []
    for rank in range(world_size):
        dealt = Streams(
            split=streams.split,
            train_batch_size=12,
            tgt_len=4,
            slots=2,
            rank=rank,
            world_size=world_size,
        )
        watches.append((FaultWatch(dealt, lone_world(rank=rank, world_size=world_size)), dealt))
    for rank, (watch, dealt) in enumerate(watches):
        for slot in range(2):
            assert watch.ranks_of(dealt.stream_ids(slot).tolist()) == [rank]
    assert watches[0][0].ranks_of([0, 1, 6, 4, 11]) == [0, 2]
