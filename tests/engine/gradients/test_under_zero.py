"""Gradients of stage 1 wait for the end of a step; what follows is what DeepSpeed does alone."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from bare_run import bare_run
from builders import random_documents, tiny_experiment, write_corpus
from deepspeed.accelerator import get_accelerator
from ranks import told_by_ranks

from trainer.checkpoint.state import TrainState
from trainer.config.deepspeed.file import load_ds_config
from trainer.distributed import World
from trainer.engine import deepspeed
from trainer.engine.gradients import under_zero
from trainer.engine.passes.captured import CapturedPasses
from trainer.training.loop import train_step

N_WORDS, N_STEPS = 200, 6
#: By name: a packaged file, what is changed in its blocks, and the number of slots.
FILES: dict[str, tuple[str, dict[str, dict[str, Any]], int]] = {
    "bf16, two slots": ("zero1_bf16", {}, 2),
    "fp16, two slots": (
        "zero1_fp16",
        {"fp16": {"initial_scale_power": 17, "hysteresis": 1, "loss_scale_window": 2}},
        2,
    ),
    "fp32": ("zero1_fp32", {}, 1),
    "small buckets": (
        "zero1_bf16",
        {"zero_optimization": {"reduce_bucket_size": 1000, "allgather_bucket_size": 500}},
        2,
    ),
    "no buckets": ("zero1_bf16", {"zero_optimization": {"contiguous_gradients": False}}, 2),
    "on the way": ("zero1_bf16", {"zero_optimization": {"overlap_comm": True}}, 1),
}


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what each rank has after some steps, by file and way."""
    folder = tmp_path_factory.mktemp("zero")
    documents = random_documents(4000, vocabulary_size=N_WORDS)
    write_corpus(folder / "corpus", vocabulary_size=N_WORDS, train=documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        return told_by_ranks(train_with_all, folder, n_ranks=request.param)


@pytest.mark.parametrize("name", FILES)
def test_losses_weights_and_moments_are_those_of_deepspeed_alone(told: Any, name: str) -> None:
    for rank in told:
        assert rank[name]["ours"] == rank[name]["deepspeed's"]


@pytest.mark.parametrize("name", sorted(set(FILES) - {"on the way"}))
def test_and_those_of_captured_passes(told: Any, name: str) -> None:
    for rank in told:
        assert rank[name]["captured"] == rank[name]["deepspeed's"]


def test_the_loss_scale_changes_between_these_steps(told: Any) -> None:
    for rank in told:
        assert len(set(rank["fp16, two slots"]["captured"][1])) > 1


def test_a_graph_s_gradients_stay_where_they_are_and_the_next_step_begins_without(
    told: Any,
) -> None:
    for rank in told:
        assert rank["stays"] == {name: True for name in FILES if name != "on the way"}


def test_each_pass_makes_the_nodes_that_gradients_arrive_at_anew(told: Any) -> None:
    """A node keeps its stream, and none that was made outside a graph may be waited for in it."""
    for rank in told:
        assert rank["old nodes"] == {name: 0 for name in FILES if name != "on the way"}


def train_with_all(world: World, folder: Path) -> dict[str, Any]:
    """Return what each file leaves on this rank, by way."""
    # The CPU computes in fp16 well enough to test loss scaling; DeepSpeed only refuses to.
    type(get_accelerator()).is_fp16_supported = lambda self: True
    torch.set_num_threads(1)
    world = deepspeed.connect(world, timeout_s=300)
    found: dict[str, Any] = {"stays": {}, "old nodes": {}}
    for name in FILES:
        with mock.patch.object(under_zero, "_early", return_value="as DeepSpeed does"):
            found[name] = {"deepspeed's": trained(world, folder, name, "off")[0]}
        found[name]["ours"], _, _ = trained(world, folder, name, "off")
        if name != "on the way":
            captured, found["stays"][name], n_old = trained(world, folder, name, "on")
            found[name]["captured"], found["old nodes"][name] = captured, n_old
    return found


def trained(world: World, folder: Path, name: str, cuda_graph: str) -> tuple[Any, bool, int]:
    """Train; return what is left, whether gradients that a graph fills lie where they lay, and how
    many nodes that accumulate gradients outlive a step."""
    file, changes, slots = FILES[name]
    experiment = tiny_experiment(
        model={"cutoffs": (), "dropout": 0.1},
        train={
            "train_micro_batch_size_per_gpu": 4 // world.world_size // slots,
            "cuda_graph": cuda_graph,
        },
        optim={"lr": 1e-2, "gradient_clipping": 0.05},
    )
    raw = load_ds_config(file)
    for block, values in changes.items():
        raw[block] |= values
    run, state = bare_run(world, folder / "corpus", raw, experiment), TrainState()
    engine = run.engine
    losses, scales, places = [], [], []
    parameters = list(engine.ds.module.parameters())
    for _ in range(N_STEPS):
        for parameter in parameters:
            _accumulating(parameter).metadata["old"] = True
        scales.append(engine.loss_scale)
        losses.append(float(train_step(run, state).loss_sum))
        assert all(p.grad is None for p in engine.ds.module.parameters())
        if isinstance(run.passes, CapturedPasses) and run.passes._graphs is not None:
            gradients = run.passes._graphs.gradients
            places.append([None if g is None else g.data_ptr() for g in gradients])
    parts = [
        [part.name, part.begin, {key: x.tolist() for key, x in part.tensors.items()}]
        for part in engine.full_state.parts()
    ]
    left: list[Any] = [losses, scales, float(engine.grad_norm or 0), engine.scalars()]
    left += [state.skipped_steps, parts]
    n_old = sum("old" in _accumulating(parameter).metadata for parameter in parameters)
    engine.destroy()
    return left, len(places) > 1 and all(place == places[0] for place in places), n_old


def _accumulating(parameter: torch.nn.Parameter) -> Any:
    """Return the node that accumulates a parameter's gradient; a new one, if none is kept."""
    node: Any = parameter.view_as(parameter).grad_fn
    return node.next_functions[0][0]
