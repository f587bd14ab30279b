"""What a plan says that ranks hold and send is what real ranks hold and send, within 5 %."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import random_documents, tiny_experiment, write_corpus
from holding import measured
from ranks import told_by_ranks

from trainer.config.deepspeed.file import load_ds_config
from trainer.distributed import World
from trainer.engine import deepspeed

N_WORDS = 2000
#: Files, changes of their section on ZeRO, and micro steps of a step. A name with "Muon" has Muon.
SETTINGS: dict[str, tuple[str, dict[str, Any], int]] = {
    "stage 0": ("zero0_fp32", {}, 1),
    "stage 0, autocast, 2 slots": ("zero0_bf16_autocast", {}, 2),
    "stage 1": ("zero1_fp32", {}, 2),
    "stage 1, to all": ("zero1_bf16", {"use_multi_rank_bucket_allreduce": True}, 1),
    "stage 2": ("zero2_fp32", {}, 2),
    "stage 2, bf16": ("zero2_bf16", {}, 1),
    "stage 3": ("zero3_fp32", {"stage3_param_persistence_threshold": 9000}, 2),
    "stage 3, bf16": ("zero3_bf16", {}, 1),
    "stage 0, Muon": ("zero0_fp32", {}, 1),
    "stage 1, Muon": ("zero1_bf16", {}, 1),
    "stage 3, Muon": ("zero3_fp32", {}, 1),
}


@pytest.fixture(scope="module", params=[1, 2])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what each rank measures, by setting."""
    folder = tmp_path_factory.mktemp("held")
    documents = random_documents(4000, vocabulary_size=N_WORDS)
    write_corpus(folder / "corpus", vocabulary_size=N_WORDS, train=documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        return told_by_ranks(measure_all, folder, n_ranks=request.param)


@pytest.mark.parametrize("name", SETTINGS)
def test_ranks_hold_and_send_what_the_plan_says(told: Any, name: str) -> None:
    for key in ("weights", "optimizer", "all", "sent"):
        # Of gradients the plan is that of the rank that has most.
        most = max(rank[name]["measured"][key] for rank in told)
        assert most == pytest.approx(told[0][name]["planned"][key], rel=0.05, abs=8192), key


def measure_all(world: World, folder: Path) -> dict[str, Any]:
    """Return what each setting holds and sends on this rank."""
    torch.set_num_threads(1)
    world = deepspeed.connect(world, timeout_s=300)
    found = {}
    for name, (file, changes, slots) in SETTINGS.items():
        raw = load_ds_config(file)
        raw["zero_optimization"] |= changes | {"reduce_bucket_size": 20_000}
        if raw["zero_optimization"]["stage"] == 0:
            raw["zero_optimization"] = {"stage": 0}
        experiment = tiny_experiment(
            optim={"lr": 1e-3, "type": "Muon" if "Muon" in name else "Adam"},
            model={"cutoffs": (300, 800), "d_model": 64, "d_inner": 128, "d_head": 16},
            train={
                "train_batch_size": slots * world.world_size,
                "train_micro_batch_size_per_gpu": 1,
            },
        )
        found[name] = measured(world, folder / "corpus", raw, experiment)
    return found
