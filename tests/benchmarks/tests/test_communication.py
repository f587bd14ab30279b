"""Sharing out the optimizer and the gradients sends no more than averaging the gradients does."""

import math
from pathlib import Path
from typing import Any

import pytest
from bare_run import bare_run
from builders import random_documents, tiny_experiment, write_corpus
from ranks import told_by_ranks
from traffic import PASSES, Traffic

from trainer.checkpoint.state import TrainState
from trainer.config.deepspeed.file import load_ds_config
from trainer.distributed import World
from trainer.engine import deepspeed
from trainer.training.loop import train_step

N_WORDS = 500
#: Norms, flags, and what makes partitions even.
SCALARS = 1024
#: A user's own files, which say no more than the stage and the precision; and two of ours.
FILES: dict[str, dict[str, Any]] = {
    **{f"stage {stage}": {"zero_optimization": {"stage": stage}} for stage in range(4)},
    "stage 1 bf16": {"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}},
    "stage 2 bf16": {"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}},
    "DeepSpeed's stage 1": {
        "zero_optimization": {"stage": 1, "use_multi_rank_bucket_allreduce": True}
    },
    "zero1_fp32": load_ds_config("zero1_fp32"),
    "zero2_fp32": load_ds_config("zero2_fp32"),
}


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return bytes per rank in a step, by file and number of slots; and those of all parameters."""
    folder = tmp_path_factory.mktemp("sent")
    documents = random_documents(4000, vocabulary_size=N_WORDS)
    write_corpus(folder / "corpus", vocabulary_size=N_WORDS, train=documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        told: list[dict[str, Any]] = told_by_ranks(train_with_all, folder)
    assert told[0] == told[1]
    return told[0]


def total(sent: dict[str, Any], name: str) -> float:
    return float(sum(size for kind, size in sent[name].items() if kind in PASSES))


def test_averaging_gradients_sends_every_parameter_there_and_back(sent: dict[str, Any]) -> None:
    # Between two ranks that is once its own gradient, and once the mean of the other's half.
    assert total(sent, "stage 0") == pytest.approx(sent["stage 0"]["parameters"], abs=SCALARS)


@pytest.mark.parametrize("name", ["stage 1", "stage 2", "zero1_fp32", "zero2_fp32"])
def test_shared_out_optimizers_send_no_more_than_plain_data_parallel(
    sent: dict[str, Any], name: str
) -> None:
    assert total(sent, name) <= total(sent, "stage 0") + SCALARS


@pytest.mark.parametrize("name", ["stage 1 bf16", "stage 2 bf16"])
def test_weights_of_16_bits_are_sent_in_16_bits(sent: dict[str, Any], name: str) -> None:
    assert total(sent, name) <= total(sent, "stage 0") / 2 + SCALARS


def test_deepspeeds_own_default_sends_half_as_much_again(sent: dict[str, Any]) -> None:
    assert total(sent, "DeepSpeed's stage 1") > 1.4 * total(sent, "stage 0")


def test_shared_out_parameters_that_fit_are_gathered_once(sent: dict[str, Any]) -> None:
    assert total(sent, "stage 3") == pytest.approx(total(sent, "stage 0"), rel=0.02)


def test_slots_send_nothing_until_the_last_but_where_gradients_are_shared_out(
    sent: dict[str, Any],
) -> None:
    assert total(sent, "stage 0, 2 slots") == total(sent, "stage 0")
    assert total(sent, "stage 1, 2 slots") <= total(sent, "stage 1") + SCALARS
    # Whole gradients are kept on no rank at stage 2: every slot's are reduced.
    more = total(sent, "stage 2, 2 slots") - total(sent, "stage 2")
    assert more == pytest.approx(sent["stage 2"]["parameters"] / 2, abs=SCALARS)


def train_with_all(world: World, folder: Path) -> dict[str, Any]:
    """Return what each file sends on this rank."""
    world = deepspeed.connect(world, timeout_s=300)
    corpus = folder / "corpus"
    found = {name: second_step(world, corpus, raw, slots=1) for name, raw in FILES.items()}
    for stage in range(3):
        name = f"stage {stage}"
        found[f"{name}, 2 slots"] = second_step(world, corpus, FILES[name], slots=2)
    return found


def second_step(world: World, corpus: Path, raw: dict[str, Any], *, slots: int) -> dict[str, Any]:
    """Train two steps; bytes sent in the second by collective, and what of it is known."""
    experiment = tiny_experiment(
        model={"cutoffs": (100, 300), "d_model": 32},
        train={"train_micro_batch_size_per_gpu": 2 // slots},
    )
    run = bare_run(world, corpus, raw, experiment)
    built = run.engine
    n_parameters = sum(math.prod(shape) for shape in built.full_state.shapes().values())
    state = TrainState()
    train_step(run, state)
    with Traffic(world.world_size) as traffic:
        train_step(run, state)
    built.destroy()
    return traffic.bytes_by_collective | {"parameters": built.dtype.itemsize * n_parameters}
