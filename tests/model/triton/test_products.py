"""Products with weights equal PyTorch's, and the gradients of fp32 weights are not rounded."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from triton_device import DEVICE

from trainer.model.triton.copies import Copies
from trainer.model.triton.products import linear, twice_linear


def layer(n_in: int, n_out: int, dtype: torch.dtype) -> nn.Linear:
    return nn.Linear(n_in, n_out, bias=False, dtype=dtype, device=DEVICE)


def numbers(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, dtype=dtype, device=DEVICE).requires_grad_()


def assert_same(ours: list[Tensor], plain: list[Tensor], leaves: list[Tensor]) -> None:
    """Compare values and gradients."""
    torch.testing.assert_close(ours, plain)
    weights = [torch.randn_like(x) for x in plain]
    got, wanted = (torch.autograd.grad(made, leaves, weights) for made in (ours, plain))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_they_are_those_of_pytorch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query, both = layer(8, 16, dtype), layer(8, 24, dtype)
    new, old = numbers(2, 3, 8, dtype=dtype), numbers(2, 5, 8, dtype=dtype)
    assert_same([linear(query, new)], [F.linear(new, query.weight)], [new, query.weight])
    assert_same(
        list(twice_linear(query, both, new, old, n_out=(1, 3))),
        [F.linear(new, query.weight), F.linear(old, both.weight), F.linear(new, both.weight)],
        [new, old, query.weight, both.weight],
    )


def test_without_a_gradient_it_is_the_same_product() -> None:
    module, x = layer(8, 16, torch.float32), torch.randn(3, 8, device=DEVICE)
    with torch.no_grad():
        assert torch.equal(linear(module, x), F.linear(x, module.weight))


@pytest.mark.parametrize("has_copies", [True, False])
def test_the_gradient_of_an_fp32_weight_is_a_sum_in_fp32_of_16_bit_products(
    has_copies: bool,
) -> None:
    """Autograd's own would have the 8 bits of bf16, and an error of 1e-3."""
    torch.manual_seed(0)
    query, both = layer(8, 16, torch.float32), layer(8, 16, torch.float32)
    if has_copies:
        Copies([query.weight, both.weight], torch.bfloat16)
    new, old = (torch.randn(40, 8, device=DEVICE).bfloat16() for _ in range(2))
    grads = [torch.randn(40, 16, device=DEVICE).bfloat16() for _ in range(3)]
    with torch.autocast(DEVICE, torch.bfloat16):
        made = twice_linear(query, both, new, old, n_out=(1, 1))
        assert torch.equal(made[0], F.linear(new, query.weight))
    got = torch.autograd.grad(made, [query.weight, both.weight], grads)
    exact = [x.double() for x in (new, old, *grads)]
    wanted = exact[2].T @ exact[0], exact[3].T @ exact[1] + exact[4].T @ exact[0]
    for grad, exact_grad in zip(got, wanted, strict=True):
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad.double(), exact_grad, rtol=1e-5, atol=1e-5)


def test_what_is_not_trained_takes_no_gradient() -> None:
    query, both = layer(8, 8, torch.float32), layer(8, 8, torch.float32)
    both.weight.requires_grad_(False)
    new, old = torch.randn(3, 8, device=DEVICE), torch.randn(3, 8, device=DEVICE)
    made = twice_linear(query, both, new, old, n_out=(1, 1))
    torch.stack(made).sum().backward()
    assert query.weight.grad is not None
    assert both.weight.grad is None
    assert not linear(both, new).requires_grad
