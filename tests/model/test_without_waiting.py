"""A step of the model waits for no value of the device, and every kernel of it compiles.

On tensors without data, whose values cannot be asked for, at the sizes of wt103-base; Triton
compiles in a process of its own, for cards that are not there.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from fake_model import Hosts, Step, step_of
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from triton_processes import compile_only

from trainer.model.choice import BackendName

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

CASES: dict[str, dict[str, Any]] = {
    "bf16, as the recipe is": {"dtype": torch.bfloat16},
    "fp16, all that it is not": {
        "dtype": torch.float16,
        "documents": True,
        "norm": "pre",
        "attn_dropout": 0.1,
        "position_biases": "per_layer",
        "div_val": 4,
        "d_embed": 512,
        "n_head": 8,
        "d_head": 64,
        "d_model": 512,
        "activation_checkpointing": True,
        "token_tables": 1,
        "pair_rows": 1 << 18,
    },
}


@pytest.fixture(scope="module")
def compiler() -> Iterator[Callable[..., Step]]:
    """Yield `step_of` in a process that compiles instead of launching."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=compile_only) as pool:
        yield lambda *args, **keywords: pool.submit(step_of, *args, **keywords).result()


@pytest.mark.parametrize("backend", ["triton", "plain"])
@pytest.mark.parametrize("name", CASES)
def test_a_step_asks_no_device_for_a_value_and_gives_it_none(
    compiler: Callable[..., Step], name: str, backend: BackendName
) -> None:
    step = compiler("wt103-base", backend, **CASES[name])
    assert step.from_host == []
    n_layers, n_passes = 2, 2
    wanted = n_layers * n_passes if backend == "triton" else 0
    assert step.launches["attention_kernels.backward_by_key"] == wanted


@pytest.mark.parametrize("name", CASES)
def test_no_kernel_runs_out_of_registers(compiler: Callable[..., Step], name: str) -> None:
    step = compiler("wt103-base", "triton", **CASES[name])
    on_a100 = 16 if CASES[name].get("attn_dropout") else 0  # dropout there: four registers' worth
    wanted = {80: on_a100, 90: 0}
    assert {kernel.capability for kernel in step.kernels} == set(wanted)
    assert [k for k in step.kernels if k.stack > wanted[k.capability]] == []


@pytest.mark.parametrize(
    "ask",
    [lambda x: bool(x.all()), lambda x: x[x > 0], lambda x: x.unique(), lambda x: x.max().item()],
)
def test_what_asks_is_found(ask: Callable[[Tensor], Any]) -> None:
    with (
        FakeTensorMode(),
        pytest.raises((DataDependentOutputException, DynamicOutputShapeException)),
    ):
        ask(torch.ones(3))


def test_what_is_given_is_found() -> None:
    with FakeTensorMode(), Hosts() as hosts:
        x = torch.ones(3)
        x.add_(1)
        assert hosts.seen == []
        x.add_(torch.tensor(1))
    assert len(hosts.seen) == 1
