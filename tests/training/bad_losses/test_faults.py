"""Flags are acted on late but never lost: a request after one step, a fault after two."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from builders import lone_world, random_documents, streams_of, write_split
from ranks import told_by_ranks
from torch.utils._pytree import tree_leaves

from trainer.data.corpus import Split
from trainer.data.streams import Streams
from trainer.distributed import World
from trainer.training.bad_losses.faults import FaultWatch, Known, Verdict
from trainer.training.ending.stopping import Wish


@pytest.fixture
def streams(tmp_path: Path) -> Streams:
    split = write_split(tmp_path / "c", random_documents(50, vocabulary_size=9), vocabulary_size=9)
    return streams_of(split=split, train_batch_size=6, tgt_len=4, slots=3, rank=0, world_size=1)


def nats(*bad: int, of: float = 2.0) -> torch.Tensor:
    """Return nats of this rank's six streams, slot after slot; those of bad ones are not finite."""
    return torch.tensor([torch.nan if stream in bad else of for stream in range(6)])


def told(watch: FaultWatch, nats_S: torch.Tensor, wish: Wish = Wish.NONE) -> Verdict:
    """Return what the watch tells at a step of 24 targets."""
    return watch.exchange(wish, nats_S, n_tokens=24)


def test_a_request_is_agreed_on_a_step_later(streams: Streams) -> None:
    watch = FaultWatch(streams, lone_world())
    wishes = [Wish.NONE, Wish.REQUEUE, Wish.STOP, Wish.STOP]
    agreed = [told(watch, nats(), wish).wish for wish in wishes]
    assert agreed == [Wish.NONE, *wishes[:-1]]


def test_streams_with_a_loss_that_is_not_finite_are_named_two_steps_later(streams: Streams) -> None:
    watch = FaultWatch(streams, lone_world())
    faults = [nats(1, 4), nats(), nats(0), nats(), nats()]
    named = [told(watch, nats_S).bad_streams for nats_S in faults]
    assert named == [[], [], [1, 4], [], [0]]


def test_after_a_rollback_nothing_is_left_of_what_was_under_way(streams: Streams) -> None:
    watch = FaultWatch(streams, lone_world())
    for _ in range(2):
        told(watch, nats(2), Wish.REQUEUE)
    watch.drain()
    later = [told(watch, nats()) for _ in range(3)]
    assert [(verdict.wish, verdict.bad_streams) for verdict in later] == [(Wish.NONE, [])] * 3
    assert [verdict.known for verdict in later] == [None, None, Known(0.5, [])]


def test_the_loss_is_that_of_all_streams_per_target_two_steps_later(streams: Streams) -> None:
    watch = FaultWatch(streams, lone_world())
    steps = [nats(of=4.0), nats(3), nats(of=8.0), nats(), nats()]
    known = [told(watch, nats_S).known for nats_S in steps]
    assert known == [None, None, Known(1.0, []), Known(None, [3]), Known(2.0, [])]


@pytest.mark.parametrize("n_steps", [0, 1, 2, 5])
def test_a_look_at_what_is_under_way_changes_no_verdict_and_a_later_watch_goes_on(
    streams: Streams, n_steps: int
) -> None:
    undisturbed, looked = (FaultWatch(streams, lone_world()) for _ in range(2))
    steps = [nats(step, of=step + 1.0) if step % 3 == 1 else nats(of=step) for step in range(9)]
    for nats_S in steps[:n_steps]:
        told(looked, nats_S)
        told(undisturbed, nats_S)
    resumed = FaultWatch(streams, lone_world())
    resumed.load(looked.under_way())
    later = [
        [told(watch, nats_S).known or Known(None, []) for nats_S in steps[n_steps:6]]
        for watch in (undisturbed, looked, resumed)
    ]
    assert later[0] == later[1] == later[2]


def test_a_request_is_not_lost_by_a_look(streams: Streams) -> None:
    watch = FaultWatch(streams, lone_world())
    told(watch, nats(), Wish.REQUEUE)
    watch.under_way()
    assert told(watch, nats()).wish is Wish.REQUEUE


def test_streams_are_traced_to_the_ranks_that_read_them(streams: Streams) -> None:
    world_size = 3
    watches = []
    for rank in range(world_size):
        dealt = streams_of(
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


def test_the_words_sent_do_not_grow_with_the_streams_and_a_fault_names_the_same(
    tmp_path: Path,
) -> None:
    for rank in told_by_ranks(exchange_on_ranks, tmp_path):
        few, many = rank["few"], rank["many"]
        assert few["sent"] == many["sent"] == [[32]] * 4
        assert few["named"] == [[], [], [0, 3], [], [2], []]
        assert many["named"] == [[], [], [0, 150], [], [100], []]


def exchange_on_ranks(world: World, folder: Path) -> dict[str, Any]:
    """Return what the ranks send and name, with few streams and with many."""
    documents = random_documents(2000, vocabulary_size=9)
    split = write_split(folder / f"split {world.rank}", documents, vocabulary_size=9)
    return {"few": exchanged(world, split, 4), "many": exchanged(world, split, 200)}


@contextmanager
def sizes_of(module: Any, *names: str) -> Iterator[list[int]]:
    """Note every call of these functions, by the bytes of the tensors that it gets."""
    sizes: list[int] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            sizes.append(sum(tensor.nbytes for tensor in tensors))
            return function(*args, **keywords)

        return call

    with ExitStack() as stack:
        for name in names:
            patched = mock.patch.object(module, name, noting(getattr(module, name)))
            stack.enter_context(patched)
        yield sizes


def exchanged(world: World, split: Split, n_streams: int) -> dict[str, Any]:
    """Return bytes by message of each step without a fault, and the streams named in each step."""
    streams = streams_of(
        split=split,
        train_batch_size=n_streams,
        tgt_len=4,
        slots=2,
        rank=world.rank,
        world_size=world.world_size,
    )
    ids = [int(s) for slot in range(2) for s in streams.stream_ids(slot)]
    quarter = n_streams // 4
    faults = [(0, 3 * quarter), (), (2 * quarter,), (), (), ()]
    watch, sent, named = FaultWatch(streams, world), [], []
    for bad in faults:
        nats_S = torch.tensor([torch.nan if stream in bad else 1.0 for stream in ids])
        with sizes_of(dist, "all_reduce", "all_gather_object") as sizes:
            verdict = watch.exchange(Wish.NONE, nats_S, n_tokens=4 * n_streams)
        named.append(verdict.bad_streams)
        if not verdict.bad_streams:
            sent.append(sizes)
    watch.drain()
    return {"sent": sent, "named": named}
