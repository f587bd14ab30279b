"""The model on a GPU's kernels equals the model on PyTorch's own operations.

Under Triton's interpreter, in a process of its own. Widths are mostly odd, so that rows are padded.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from triton_model import ODD, Reading, carried_over, prepare, read, scored, trained

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

Submit = Callable[..., Any]
BACKENDS = ("triton", "plain")

CLUSTERS = {"cutoffs": (5, 12), "div_val": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"model": ODD},
    "aligned widths": {"model": {"d_model": 16, "d_head": 8, "d_inner": 24}},
    "pre-norm, biases per layer": {
        "model": {**ODD, "norm": "pre", "position_biases": "per_layer"},
        "documents": True,
    },
    "clusters": {"model": {**ODD, **CLUSTERS}, "documents": True},
    "narrower clusters": {"model": {**ODD, "cutoffs": (5, 12), "div_val": 2, "d_embed": 12}},
    "untied": {
        "model": {
            **ODD,
            **CLUSTERS,
            "tie_embedding": False,
            "tie_projections": "none",
            "d_embed": 6,
        },
    },
    "tables": {"model": {**ODD, **CLUSTERS, "token_tables": 1, "pair_rows": 30}, "documents": True},
    "tables, pre-norm": {"model": {**ODD, "token_tables": 1, "pair_rows": 30, "norm": "pre"}},
    "no memory": {"model": ODD, "mem_len": 0, "documents": True},
    "short memory, clamped": {"model": ODD, "mem_len": 2, "clamp_len": 3},
    "same length": {"model": ODD, "same_length": True, "clamp_len": 4},
    "same length, documents": {"model": ODD, "same_length": True, "documents": True},
    "through memory": {"model": {**ODD, **CLUSTERS}, "attached": True, "documents": True},
    "through whole memory, pre-norm": {
        "model": {**ODD, "norm": "pre"},
        "mem_len": 5,
        "attached": True,
    },
}


@pytest.fixture(scope="module")
def run() -> Iterator[Submit]:
    """Yield a function that calls one of `triton_model` in the process that interprets."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=prepare) as pool:
        yield lambda work, *args, **keywords: pool.submit(work, *args, **keywords).result()


def assert_same(ours: Reading, plain: Reading, **tolerance: float) -> None:
    close = {"rtol": 1e-9, "atol": 1e-9} | tolerance
    torch.testing.assert_close(ours.loss, plain.loss, **close)
    torch.testing.assert_close(ours.nats, plain.nats, **close)
    torch.testing.assert_close(ours.memory, plain.memory, **close)
    torch.testing.assert_close(ours.grads, plain.grads, **close)


@pytest.mark.parametrize("name", VARIANTS)
def test_losses_memory_and_all_gradients_equal_the_plain_models(run: Submit, name: str) -> None:
    ours, plain = (run(read, backend, **VARIANTS[name]) for backend in BACKENDS)
    assert_same(ours, plain)
    assert not plain.launches
    n_layers = 2 * len(ours.nats)
    for kernel in ("forward", "backward_by_query", "backward_by_key"):
        assert ours.launches[kernel] == n_layers
    n_clusters = len(VARIANTS[name]["model"].get("cutoffs", ())) + 1
    assert ours.launches["_softmax_error_kernel"] == n_clusters * len(ours.nats)


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_that_are_stored_aligned_change_nothing(run: Submit, name: str) -> None:
    ours, plain = (
        run(read, backend, stored_aligned=backend == "triton", **VARIANTS[name])
        for backend in BACKENDS
    )
    assert_same(ours, plain)


@pytest.mark.parametrize("stored_aligned", [False, True])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_reading_with_weights_that_stay_equals_the_plain_models(
    run: Submit, norm: str, stored_aligned: bool
) -> None:
    case = {"model": {**ODD, **CLUSTERS, "norm": norm}, "clamp_len": 6}
    ours = run(scored, "triton", stored_aligned=stored_aligned, **case)
    plain = run(scored, "plain", **case)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


def test_fp32_is_as_near_as_fp32_can_be(run: Submit) -> None:
    case = {"model": {**ODD, **CLUSTERS}, "dtype": torch.float32}
    ours, plain = (run(read, backend, **case) for backend in BACKENDS)
    assert_same(ours, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_bf16_under_autocast_is_near_fp32(run: Submit, norm: str) -> None:
    case = {"model": {**ODD, **CLUSTERS, "norm": norm, "init_std": 0.2}, "dtype": torch.float32}
    exact = run(read, "plain", **case)
    ours = run(read, "triton", autocast=True, **case)
    assert {grad.dtype for grad in ours.grads.values()} == {torch.float32}
    assert {layer.dtype for layer in ours.memory.layers} == {torch.bfloat16}
    torch.testing.assert_close(ours.loss, exact.loss, rtol=1e-3, atol=0)
    assert error(ours, exact) < 0.04


def error(reading: Reading, exact: Reading) -> float:
    """Return the error of all gradients, relative to their size."""
    pairs = [(reading.grads[name], grad) for name, grad in exact.grads.items()]
    wrong = sum(float((got - grad).square().sum()) for got, grad in pairs)
    return (wrong / sum(float(grad.square().sum()) for _, grad in pairs)) ** 0.5


def test_dropout_follows_the_seed_and_checkpointing_drops_the_same(run: Submit) -> None:
    drop = {**ODD, "dropout": 0.3, "attn_dropout": 0.3}
    kept = run(read, "triton", model=drop, seed=3)
    again = run(read, "triton", model={**drop, "activation_checkpointing": True}, seed=3)
    assert_same(again, kept, rtol=0, atol=0)
    assert again.launches["forward"] == 2 * kept.launches["forward"]
    assert run(read, "triton", model=drop, seed=4).loss != kept.loss


@pytest.mark.parametrize("ds_file", ["zero0_fp32", "zero1_fp32", "zero2_fp32", "zero3_fp32"])
def test_steps_through_deepspeed_equal_the_plain_ones(run: Submit, ds_file: str) -> None:
    model = {**ODD, **CLUSTERS}
    (losses, weights, launches), (plain_losses, plain_weights, _) = (
        run(trained, backend, ds_file, model=model) for backend in BACKENDS
    )
    assert launches["backward_by_key"] == 4
    torch.testing.assert_close(losses, plain_losses, rtol=1e-5, atol=0)
    torch.testing.assert_close(weights, plain_weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "ds_file",
    ["zero0_fp32", "zero0_bf16_autocast", "zero0_fp16_autocast", "zero1_fp32", "zero2_fp32"],
)
def test_pads_and_copies_are_not_in_what_a_checkpoint_keeps(run: Submit, ds_file: str) -> None:
    (ours, plain, again), losses = run(carried_over, ds_file, model={**ODD, **CLUSTERS})
    torch.testing.assert_close(plain, ours, rtol=0, atol=0)
    torch.testing.assert_close(again, ours, rtol=0, atol=0)
    assert losses[2] == losses[0], "copies are as new as the weights"
    assert losses[1] == pytest.approx(losses[0], rel=1e-2 if "autocast" in ds_file else 1e-5)


@pytest.mark.parametrize(
    ("norm", "kind"), [("post", "bf16"), ("pre", "bf16"), ("post", "fp16"), ("pre", "fp16")]
)
def test_copies_of_weights_are_what_autocast_makes(run: Submit, norm: str, kind: str) -> None:
    case = {"model": {**ODD, **CLUSTERS, "norm": norm}, "n_steps": 3}
    with_copies, without = (
        run(trained, "triton", f"zero0_{kind}_autocast", copies=copies, **case)
        for copies in (True, False)
    )
    # To the rounding of Adam's step, which PyTorch's kernel takes where there are no copies.
    torch.testing.assert_close(with_copies[:2], without[:2], rtol=1e-6, atol=1e-7)


def test_a_weight_that_is_not_trained_stays_though_it_has_a_copy(run: Submit) -> None:
    frozen = ("layers.0.attention.query.weight", "layers.1.feed_forward.outer.bias")
    before, after = (
        run(trained, "triton", "zero0_bf16_autocast", model=ODD, frozen=frozen, n_steps=n)[1]
        for n in (0, 2)
    )
    assert {name for name in before if torch.equal(before[name], after[name])} == set(frozen)
