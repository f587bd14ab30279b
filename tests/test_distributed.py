"""Who a process is follows from its launcher; what ranks agree on is the same on all of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import empty, lone_world, random_documents, scoring, tiny_model, write_split
from ranks import told_by_ranks

from trainer.data.corpus import open_corpus
from trainer.data.streams import Streams
from trainer.distributed import (
    RENDEZVOUS,
    Agreement,
    World,
    barrier,
    broadcast_object,
    choose_device,
    complete_environ,
    gather_objects,
    join,
    largest,
    on_main,
    sum_floats,
)
from trainer.errors import InputError
from trainer.evaluate import Score, score
from trainer.faults import FaultWatch
from trainer.stopping import Wish

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0", "MASTER_PORT": "29500",
}  # fmt: skip
SRUN = {
    "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1",
    "MASTER_ADDR": "node0", "MASTER_PORT": "29500",
}  # fmt: skip


def test_a_lone_process_is_all_there_is() -> None:
    found = complete_environ({"HOME": "/root"})
    assert set(found) == set(RENDEZVOUS)
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"]) == ("0", "1", "0")
    assert 0 < int(found["MASTER_PORT"]) < 1 << 16


def test_two_lone_processes_do_not_meet() -> None:
    environ = [complete_environ({}) for _ in range(5)]
    assert len({found["MASTER_PORT"] for found in environ}) > 1


def test_a_launchers_word_is_taken() -> None:
    found = complete_environ({**TORCHRUN, "HOME": "/root"})
    assert {key: found[key] for key in TORCHRUN if key in RENDEZVOUS} == {
        key: value for key, value in TORCHRUN.items() if key in RENDEZVOUS
    }
    assert found["LOCAL_SIZE"] == "2"


def test_under_srun_slurm_says_who_a_process_is() -> None:
    found = complete_environ(SRUN)
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"]) == ("5", "8", "1")
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("node0", "29500")
    assert complete_environ({**SRUN, **TORCHRUN})["RANK"] == "3"


def test_a_shell_inside_an_allocation_is_a_lone_process() -> None:
    inside = {key: value for key, value in SRUN.items() if key.startswith("SLURM")}
    assert complete_environ(inside)["WORLD_SIZE"] == "1"


@pytest.mark.parametrize("missing", ["WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_half_a_rendezvous_is_refused(missing: str) -> None:
    environ = {key: value for key, value in TORCHRUN.items() if key != missing}
    with pytest.raises(InputError, match=f"RANK is set in the environment, but not {missing}"):
        complete_environ(environ)


def test_the_cpu_is_taken_where_it_is_asked_for() -> None:
    assert choose_device("cpu", local_rank=3) == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert choose_device("auto", local_rank=0) == torch.device("cpu")
    with pytest.raises(InputError, match="use --device cpu"):
        choose_device("cuda", local_rank=0)


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
    """What one of two ranks learns of the other."""
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
    """Rank 0 is asked to stop; the loss of stream 3, which rank 1 reads, is not finite."""
    streams = Streams(
        split=open_corpus(folder / "corpus").splits["train"], train_batch_size=4, tgt_len=4,
        slots=1, rank=world.rank, world_size=world.world_size,
    )  # fmt: skip
    watch = FaultWatch(streams, world)
    wish = Wish.STOP if world.rank == 0 else Wish.REQUEUE
    finite_S = torch.tensor([True, world.rank == 0])
    verdicts = [watch.exchange(wish, finite_S), watch.exchange(Wish.NONE, finite_S)]
    verdicts.append(watch.exchange(Wish.NONE, finite_S))
    watch.drain()
    return {"wishes": [v.wish for v in verdicts], "bad": [v.bad_streams for v in verdicts]}


def _evaluation(world: World, folder: Path) -> dict[str, Any]:
    """The mean loss, with more rows than there are segments."""
    split, model = open_corpus(folder / "corpus").splits["train"], tiny_model(9).eval()
    losses = []
    for batch_size in (1, 2, 9):
        result = score(
            model, split, scoring=scoring(batch_size=batch_size), n_layer=2, world=world,
            first_memory=lambda rows, mem_len: empty(model, rows, mem_len), cutoffs=(),
            cut_documents=False,
        )  # fmt: skip
        assert isinstance(result, Score)
        assert result.n_tokens == split.n_tokens - 1
        losses.append(result.loss)
    return {"losses": losses}


def _all(world: World, folder: Path) -> dict[str, Any]:
    return {work.__name__: work(world, folder) for work in (_collectives, _faults, _evaluation)}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """What each of two real processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    write_split(folder / "corpus", random_documents(40, vocabulary_size=9), vocabulary_size=9)
    first, second = told_by_ranks(_all, folder)
    return first, second, folder


def test_ranks_learn_the_same(told: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    first, second, _ = told
    assert first == second
    assert first["_collectives"] == {
        "refused": "bad", "main": "told by 0", "broadcast": {"from": 0}, "gathered": [0, 1],
        "sum": [0.2, 1.0], "largest": 10, "flags": [[0, 0], [1, 0], [5, -2]],
    }  # fmt: skip


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
