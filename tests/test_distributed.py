"""Ranks meet on their own host where they are all on it; what they agree on is the same on all."""

import importlib
import os
import socket
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import (
    empty,
    lone_world,
    random_documents,
    scoring,
    streams_of,
    tiny_model,
    write_split,
)
from ranks import gloo_threads, told_by_ranks

from trainer import distributed
from trainer.data.corpus import open_corpus
from trainer.distributed import (
    Agreement,
    World,
    barrier,
    broadcast_object,
    choose_device,
    gather_objects,
    largest,
    on_main,
    refuse_shared_gpus,
    sum_floats,
    this_process,
)
from trainer.errors import InputError
from trainer.inference.score import Score, score
from trainer.launchers import complete_environ
from trainer.meeting import join
from trainer.protocol import layered
from trainer.training.bad_losses.faults import FaultWatch
from trainer.training.ending.stopping import Wish

SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}


def test_the_cpu_is_taken_where_it_is_asked_for() -> None:
    assert choose_device("cpu", local_rank=3) == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert choose_device("auto", local_rank=0) == torch.device("cpu")
    with pytest.raises(InputError, match="use --device cpu"):
        choose_device("cuda", local_rank=0)


class Gpus:
    """A stand-in for PyTorch's word on GPUs, of a machine that has as many as are told."""

    def __init__(self, patch: pytest.MonkeyPatch, n_gpus: int) -> None:
        self.taken: list[int] = []
        patch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
        patch.setattr(torch.cuda, "device_count", lambda: n_gpus)
        patch.setattr(torch.cuda, "set_device", self.taken.append)
        patch.setattr(torch.backends.cudnn, "allow_tf32", True)


def test_each_rank_of_a_node_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch, 4)
    for rank in range(4):
        assert choose_device("auto", local_rank=rank) == torch.device("cuda", rank)
    assert gpus.taken == [0, 1, 2, 3]
    assert not torch.backends.cudnn.allow_tf32
    with pytest.raises(InputError, match=r"local rank 4 has no GPU .* at most 4 tasks per node"):
        choose_device("auto", local_rank=4)


def test_a_task_that_is_shown_one_gpu_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch, 1)
    for rank in range(4):
        environ = complete_environ(SRUN | {"SLURM_LOCALID": str(rank)})
        assert this_process(environ, device="auto").device == torch.device("cuda", 0)
    assert gpus.taken == [0] * 4


def test_ranks_that_share_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {0: "GPU-a of n1", 1: "GPU-b of n1", 2: "GPU-a of n2"}
    properties = SimpleNamespace(uuid="GPU-a")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    world = World(rank=0, world_size=4, local_rank=0, device=torch.device("cuda", 0))
    for fourth, said in (("GPU-b of n2", None), ("GPU-b of n1", "ranks 1 and 3 .* GPU-b of n1")):
        everyones = [*told.values(), fourth]
        monkeypatch.setattr(distributed, "gather_objects", lambda *_, found=everyones: found)
        with nullcontext() if said is None else pytest.raises(InputError, match=said):
            refuse_shared_gpus(world)
    refuse_shared_gpus(lone_world())


def test_one_process_agrees_with_itself() -> None:
    world = lone_world()
    assert sum_floats([1.5, 2.0], world) == [1.5, 2.0]
    assert gather_objects("x", world) == ["x"]
    assert broadcast_object("x", world) == "x"
    assert largest(3, world) == 3
    assert on_main(lambda: 7, world) == 7
    assert join(world, timeout_s=1) is world
    with pytest.raises(InputError, match="bad"):
        on_main(_fail, world)


def _fail() -> int:
    raise InputError("bad")


def _collectives(world: World, folder: Path) -> dict[str, Any]:
    """Return what one of two ranks learns of the other."""
    try:
        on_main(_fail, world)
        refused = ""
    except InputError as error:
        refused = str(error)
    agreement = Agreement(world, 2)
    flags = [agreement.take()]
    for posted in ([world.rank, 0], [5, world.rank - 3]):
        agreement.post(posted)
        flags.append(agreement.take())
    barrier(world)
    return {
        "refused": refused,
        "main": on_main(lambda: f"told by {world.rank}", world),
        "broadcast": broadcast_object({"from": world.rank}, world),
        "gathered": gather_objects(world.rank, world),
        "sum": sum_floats([0.1, world.rank], world),
        "largest": largest(10 - world.rank, world),
        "flags": flags,
    }


def _faults(world: World, folder: Path) -> dict[str, Any]:
    """Ask rank 0 to stop; the loss of stream 3, which rank 1 reads, is not finite."""
    streams = streams_of(
        split=open_corpus(folder / "corpus").splits["train"],
        train_batch_size=4,
        tgt_len=4,
        slots=1,
        rank=world.rank,
        world_size=world.world_size,
    )
    watch = FaultWatch(streams, world)
    wish = Wish.STOP if world.rank == 0 else Wish.REQUEUE
    nats_S = torch.tensor([1.0, 2.0 if world.rank == 0 else torch.nan])
    asked = (wish, Wish.NONE, Wish.NONE)
    verdicts = [watch.exchange(one, nats_S, n_tokens=16) for one in asked]
    watch.drain()
    return {"wishes": [v.wish for v in verdicts], "bad": [v.bad_streams for v in verdicts]}


def _evaluation(world: World, folder: Path) -> dict[str, Any]:
    """Return the mean loss, with more rows than there are segments."""
    split, model = open_corpus(folder / "corpus").splits["train"], tiny_model(9).eval()
    losses = []
    for batch_size in (1, 2, 9):
        result = score(
            model,
            split,
            scoring=scoring(batch_size=batch_size),
            reach=layered(2),
            world=world,
            first_memory=lambda rows, mem_len: empty(model, rows, mem_len),
            cutoffs=(),
            cut_documents=False,
        )
        assert isinstance(result, Score)
        assert result.n_tokens == split.n_tokens - 1
        losses.append(result.loss)
    return {"losses": losses}


def _listening(world: World, folder: Path) -> list[str]:
    """Return addresses at which this process takes connections, but for the loopback's."""
    sockets = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue  # the listing's own
        sockets.add(name.removeprefix("socket:[").removesuffix("]"))
    addresses = []
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in sockets:
                packed = bytes.fromhex(local.partition(":")[0])
                words = [packed[i : i + 4][::-1] for i in range(0, len(packed), 4)]
                addresses.append(socket.inet_ntop(family, b"".join(words)))
    barrier(world)
    assert addresses, "a process of several listens somewhere"
    return [address for address in addresses if address not in ("127.0.0.1", "::1")]


def _leaving(world: World, folder: Path) -> list[int]:
    """Let rank 0 leave while an exchange is under way, after it, and last, for none is left.

    What torch imports for a model takes a group that is there for the default of its functions.
    """
    importlib.import_module("torch.distributed.nn.functional")
    assert world.control is not None
    agreement, has_left, threads = Agreement(world, 1), folder / "has left", [len(gloo_threads())]
    if world.is_main:
        agreement.post([1])
        world.control.end()
        threads.append(len(gloo_threads()))
        has_left.touch()
    else:
        while not has_left.exists():
            time.sleep(0.01)
        agreement.post([1])
        threads.append(len(gloo_threads()))
    agreement.take()
    world.control.group = torch.distributed.group.WORLD
    world.control.end()
    return [*threads, len(gloo_threads())]


def _all(world: World, folder: Path) -> dict[str, Any]:
    works = (_collectives, _faults, _evaluation, _listening, _leaving)
    return {work.__name__: work(world, folder) for work in works}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Return what each of two real processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    write_split(folder / "corpus", random_documents(40, vocabulary_size=9), vocabulary_size=9)
    first, second = told_by_ranks(_all, folder)
    return first, second, folder


def test_ranks_of_one_host_listen_on_it_alone(
    told: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    first, second, _ = told
    assert (first["_listening"], second["_listening"]) == ([], [])


def test_a_rank_leaves_with_its_threads_but_waits_for_no_peer(
    told: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    first, second, _ = told
    assert first["_leaving"] == second["_leaving"]
    joined, waiting, left = first["_leaving"]
    assert joined == waiting > 0
    assert left == 0


def test_a_port_that_is_taken_is_named_with_what_gives_another() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        world = World(rank=0, world_size=2, local_rank=0, device=torch.device("cpu"), port=port)
        with pytest.raises(InputError, match=rf"port {port}.* in use.*MASTER_PORT"):
            join(world, timeout_s=1)


def test_ranks_learn_the_same(told: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    first, second, _ = told
    assert first == second
    assert first["_collectives"] == {
        "refused": "bad",
        "main": "told by 0",
        "broadcast": {"from": 0},
        "gathered": [0, 1],
        "sum": [0.2, 1.0],
        "largest": 10,
        "flags": [[0, 0], [1, 0], [5, -2]],
    }


def test_ranks_act_on_each_others_flags_at_the_same_step(
    told: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    first, second, _ = told
    assert first["_faults"] == second["_faults"]
    assert first["_faults"]["wishes"] == [Wish.NONE, Wish.STOP, Wish.NONE]
    assert first["_faults"]["bad"] == [[], [], [3]]


def test_two_ranks_find_the_loss_that_one_finds(
    told: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    *both, folder = told
    alone = _evaluation(lone_world(), folder)["losses"]
    assert alone == pytest.approx([alone[0]] * 3, abs=1e-6)
    for rank in both:
        assert rank["_evaluation"]["losses"] == pytest.approx(alone, abs=1e-6)
