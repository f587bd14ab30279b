"""What a run needs of memory grows with what it is asked to do, and is shared as ZeRO shares it."""

from dataclasses import replace
from typing import Any, get_args

import pytest
from builders import recipes_of_transformer_xl
from hypothesis import given
from hypothesis import strategies as st

from trainer.budget import needs
from trainer.budget.activations import Widths
from trainer.budget.moments import Step
from trainer.budget.needs import Needs
from trainer.budget.sizes import How, Weights
from trainer.config.precision import Precision
from trainer.config.recipe import ExperimentConfig, load_recipe
from trainer.model.matrices import BATCH

WEIGHTS = Weights(
    total=151_107_538,
    layer=2_600_000,
    largest=67_735 * 410,
    tables=((20_000, 410), (20_000, 410)),
    multiplied=150_000_000,
)
HOW = How(
    backend="cpu",
    precision="fp32",
    stage=0,
    world_size=2,
    micro=8,
    slots=2,
    offload=False,
    bucket=100_000_000,
    on_gpu=False,
    fused_adam=True,
)


def counted(how: How = HOW, *, weights: Weights = WEIGHTS, **train: Any) -> Needs:
    """Return the needs of wt103-base with other settings."""
    recipe = load_recipe("wt103-base").model_dump()
    recipe["train"] |= train
    return needs.count(ExperimentConfig.model_validate(recipe), weights, how, shares=[1.0, 0.1])


@given(
    backend=st.sampled_from(["cpu", "plain", "triton"]),
    stage=st.sampled_from([0, 1, 2, 3]),
    precision=st.sampled_from(get_args(Precision)),
    micro=st.integers(1, 64),
    slots=st.integers(1, 4),
    tgt_len=st.integers(1, 2000),
    mem_len=st.integers(0, 2000),
    on_gpu=st.booleans(),
    offload=st.booleans(),
)
def test_more_text_at_once_never_needs_less(tgt_len: int, mem_len: int, **how_changes: Any) -> None:
    how = replace(HOW, **how_changes)
    base = counted(how, tgt_len=tgt_len, mem_len=mem_len)
    assert all(n >= 0 for n in (*base.device.values(), *base.host.values()))
    assert base.device_bytes > 0
    for larger in (
        counted(replace(how, micro=2 * how.micro), tgt_len=tgt_len, mem_len=mem_len),
        counted(how, tgt_len=tgt_len, mem_len=mem_len + 512),
        counted(how, tgt_len=tgt_len, mem_len=mem_len, bptt_segments=3),
        counted(how, tgt_len=tgt_len, mem_len=mem_len, weights=replace(WEIGHTS, total=2 * 10**8)),
    ):
        # On a host blocks that have grown large go back to the system, and waste no more.
        waste = 1.0 if how.on_gpu else 0.7
        assert larger.device_bytes >= waste * base.device_bytes


def test_states_are_shared_by_the_ranks_from_stage_1_on_and_weights_at_stage_3() -> None:
    for stage in (0, 1, 2, 3):
        two, eight = (counted(replace(HOW, stage=stage, world_size=n)).device for n in (2, 8))
        share = 4 if stage else 1
        assert two["optimizer states"] == pytest.approx(share * eight["optimizer states"])
        assert two["weights"] == pytest.approx((4 if stage == 3 else 1) * eight["weights"])


def test_attention_s_scores_are_counted_as_they_grow_with_the_square_of_the_segment() -> None:
    short, long = (counted(tgt_len=n, mem_len=0).device["attention"] for n in (2048, 4096))
    assert 3 < long / short < 4


def test_of_a_step_s_segments_each_keeps_its_activations_and_its_memory() -> None:
    one, four = (counted(bptt_segments=n).device for n in (1, 4))
    assert four["attention"] == pytest.approx(4 * one["attention"])
    assert four["memory"] == pytest.approx((2 + 4) / (2 + 1) * one["memory"])
    assert four["optimizer states"] == one["optimizer states"]


def test_a_checkpoint_s_copy_is_in_the_host_s_memory_beside_a_gpu() -> None:
    needed = counted(replace(HOW, on_gpu=True, backend="triton"))
    assert needed.host["checkpoint being written"] >= 12 * WEIGHTS.total / 2
    assert "checkpoint being written" not in needed.device


def test_a_graph_s_memory_and_the_usual_passes_are_counted_beside_each_other() -> None:
    usual = replace(HOW, on_gpu=True, backend="triton", stage=0, precision="bf16_autocast")
    passes, captured = counted(usual), counted(replace(usual, captured=True))
    more = captured.device["passes that are not captured"]
    kept = passes.device["attention"] + passes.device["layers"]
    assert kept <= more < passes.device_bytes
    assert captured.device_bytes - more > passes.device_bytes, "a memory of its own"


def test_a_graph_s_gradients_stay_whole_beside_those_that_zero_1_updates_with() -> None:
    usual = replace(HOW, on_gpu=True, backend="triton", stage=1, precision="bf16", world_size=1)
    passes, captured = (counted(replace(usual, micro=1, captured=on)) for on in (False, True))
    assert passes.moment == captured.moment == "the update"
    more = captured.device["gradients"] - passes.device["gradients"]
    assert more == pytest.approx(2 * WEIGHTS.total, rel=0.06)


def test_gradients_of_zero_1_are_whole_on_every_rank_until_they_are_reduced() -> None:
    usual = replace(HOW, on_gpu=True, backend="triton", precision="bf16", world_size=64, micro=1)
    one, two = (counted(replace(usual, stage=stage)) for stage in (1, 2))
    assert one.device["gradients"] >= 2 * WEIGHTS.total > 2 * two.device["gradients"]


def test_fp32_weights_have_copies_that_last_on_a_gpu() -> None:
    usual = replace(HOW, on_gpu=True, stage=0, precision="bf16_autocast")
    kernels, plain = (counted(replace(usual, backend=name)) for name in ("triton", "plain"))
    assert kernels.device["weights in 16 bits"] == 2 * WEIGHTS.multiplied
    assert plain.device.get("weights in 16 bits", 0) < 2 * WEIGHTS.multiplied


def test_checkpointing_keeps_less_of_a_deep_model() -> None:
    recipe = load_recipe("enwik8-large").model_dump()
    whole = ExperimentConfig.model_validate(recipe)
    recipe["model"]["activation_checkpointing"] = True
    again = ExperimentConfig.model_validate(recipe)
    kept, made_again = (
        needs.count(experiment, WEIGHTS, HOW, shares=[1.0, 0.1]) for experiment in (whole, again)
    )
    assert made_again.device_bytes < kept.device_bytes / 2


@pytest.mark.parametrize("precision", ["fp32", "bf16_autocast"])
@pytest.mark.parametrize("layer", [1_000, 2_600_000, 40_000_000])
def test_muon_works_with_a_bounded_part_of_the_layers_matrices(
    layer: int, precision: Precision
) -> None:
    recipe = load_recipe("wt103-base").model_dump()
    n_layer, held = recipe["model"]["n_layer"], {}
    weights = replace(WEIGHTS, total=n_layer * layer + 10**8, layer=layer)
    for rule in ("AdamW", "Muon"):
        recipe["optim"]["type"] = rule
        experiment = ExperimentConfig.model_validate(recipe)
        how = replace(HOW, precision=precision)
        step = Step(experiment, weights, how, Widths.of(precision), [1.0, 0.1])
        held[rule] = step.moments()["the update"]["working space"].n_bytes
    most = min(n_layer * layer, max(BATCH, layer))
    width = 4 if precision == "fp32" else 2
    # A buffer in fp32; a matrix, its square, a sum of powers and the next matrix, three at a time.
    assert held["Muon"] - held["AdamW"] == (4 + max(3 * width, 6)) * most


@pytest.mark.parametrize("recipe", recipes_of_transformer_xl())
def test_every_recipe_is_counted(recipe: str) -> None:
    experiment = load_recipe(recipe)
    assert needs.count(experiment, WEIGHTS, HOW, shares=[1.0, 0.1]).moment
