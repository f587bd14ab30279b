"""Row-wise Triton kernels equal plain PyTorch, whatever lies in the pads of their rows.

On a GPU they are compiled; without one Triton's interpreter runs them.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton_device import DEVICE, importing_kernels

with importing_kernels():
    from trainer.model.triton.rows.feed_forward import bias_relu_dropout
    from trainer.model.triton.rows.norm import norm, residual, residual_norm

# The interpreter multiplies in numpy, which says so when Philox overflows, as it means to.
OVERFLOW = "ignore:overflow encountered in (scalar )?multiply:RuntimeWarning"

pytestmark = [pytest.mark.usefixtures("interpreted"), pytest.mark.filterwarnings(OVERFLOW)]


SIZES = [(0, 41), (1, 5), (7, 41), (33, 410), (70, 24)]


def rows(n_rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """Return random `[N, P]` with NaN in its pads."""
    n_stored = -(-width // 8) * 8
    x_NP = torch.randn(n_rows, n_stored, dtype=dtype, device=DEVICE)
    x_NP[:, width:] = torch.nan
    return x_NP.requires_grad_()


def vector(width: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(width, dtype=dtype, device=DEVICE, requires_grad=True)


def seed(value: int) -> Tensor:
    return torch.tensor([value], device=DEVICE)


def gradients(out: Tensor, width: int, leaves: list[Tensor]) -> list[Tensor]:
    """Return gradients of a weighted sum of what counts in `out`; that of what does not is NaN."""
    counts = torch.linspace(-1, 2, out[..., :width].numel()).view(*out.shape[:-1], width)
    d_out = F.pad(counts, (0, out.shape[-1] - width), value=torch.nan).to(out)
    return list(torch.autograd.grad(out, leaves, d_out))


def assert_equal_and_zero_in_pads(
    fused: Callable[[], Tensor],
    plain: Callable[[], Tensor],
    width: int,
    leaves: list[Tensor],
    **tolerance: float,
) -> None:
    """Compare values and gradients; `plain` gives the columns that count alone."""
    out, wanted = fused(), plain()
    pairs = [
        (out, wanted),
        *zip(gradients(out, width, leaves), gradients(wanted, width, leaves), strict=True),
    ]
    for got, exact in pairs:
        if got.dim() > 1:
            assert (got[..., width:] == 0).all()
        assert got.dtype == exact.dtype
        torch.testing.assert_close(got[..., :width], exact[..., :width], **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_rows", "width"), SIZES)
def test_norm_and_residual_equal_pytorch(n_rows: int, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(n_rows)
    x, branch = rows(n_rows, width, dtype), rows(n_rows, width, dtype)
    affine = vector(width, dtype), vector(width, dtype)
    bias = vector(width, dtype)

    def normalised(total: Tensor) -> Tensor:
        return F.layer_norm(total[:, :width], (width,), *affine)

    def biased() -> Tensor:
        return x[:, :width] + branch[:, :width] + bias

    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    assert_equal_and_zero_in_pads(
        lambda: residual_norm(x, branch, *affine, width=width)[0],
        lambda: normalised(x + branch),
        width,
        [x, branch, *affine],
        **close,
    )
    assert_equal_and_zero_in_pads(
        lambda: residual_norm(x, branch, *affine, branch_bias_D=bias, width=width)[0],
        lambda: normalised(biased()),
        width,
        [x, branch, bias, *affine],
        **close,
    )
    assert_equal_and_zero_in_pads(
        lambda: residual(x, branch, branch_bias_D=bias, width=width),
        biased,
        width,
        [x, branch, bias],
        **close,
    )
    assert_equal_and_zero_in_pads(
        lambda: norm(x, *affine, width=width), lambda: normalised(x), width, [x, *affine], **close
    )
    assert_equal_and_zero_in_pads(
        lambda: residual(x, branch, width=width),
        lambda: (x + branch)[:, :width],
        width,
        [x, branch],
        **close,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_rows", "width"), SIZES)
def test_bias_and_relu_equal_pytorch(n_rows: int, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(n_rows)
    x, bias = rows(n_rows, width, dtype), vector(width, dtype)
    assert_equal_and_zero_in_pads(
        lambda: bias_relu_dropout(x, bias, width=width),
        lambda: (x[:, :width] + bias).relu(),
        width,
        [x, bias],
    )


def test_any_leading_dimensions_and_strides_will_do() -> None:
    x = rows(12, 5, torch.float32).view(3, 4, 8).transpose(0, 1)
    bias = vector(5, torch.float32)
    for fused, plain in [
        (residual(x, x, width=5), 2 * x[..., :5]),
        (norm(x, bias, bias, width=5), F.layer_norm(x[..., :5], (5,), bias, bias)),
        (bias_relu_dropout(x, bias, width=5), (x[..., :5] + bias).relu()),
    ]:
        assert fused.shape == x.shape
        torch.testing.assert_close(fused[..., :5], plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_computed_in_32(dtype: torch.dtype) -> None:
    """The result is near that in 32 bits; parameters may have 16 or 32, and a stream 32."""
    torch.manual_seed(0)
    tolerance = {"rtol": 0.02, "atol": 0.02}
    for stream, parameter in ((dtype, torch.float32), (dtype, dtype), (torch.float32, dtype)):
        x, branch = rows(9, 41, stream), rows(9, 41, dtype)
        affine = vector(41, parameter), vector(41, parameter)
        out, _ = residual_norm(x, branch, *affine, width=41, dropout=0.5, seed=seed(1))
        hidden = bias_relu_dropout(branch, affine[1], width=41, dropout=0.5, seed=seed(1))
        assert (out.dtype, hidden.dtype) == (stream, dtype)
        leaves = [x, branch, *affine]
        wide = [leaf.detach().float().requires_grad_() for leaf in leaves]
        plain, _ = residual_norm(*wide, width=41, dropout=0.5, seed=seed(1))
        torch.testing.assert_close(out.float(), plain, **tolerance)
        fused = gradients(out, 41, leaves) + gradients(hidden, 41, [branch, affine[1]])
        plain_hidden = bias_relu_dropout(wide[1], wide[3], width=41, dropout=0.5, seed=seed(1))
        exact = gradients(plain, 41, wide) + gradients(plain_hidden, 41, [wide[1], wide[3]])
        for got, wanted, leaf in zip(fused, exact, [*leaves, branch, affine[1]], strict=True):
            assert got.dtype == leaf.dtype
            torch.testing.assert_close(got.float(), wanted, **tolerance)


def kept_scale(n_rows: int, width: int, *, dropout: float, at: int) -> Tensor:
    """Return what every element of a branch is multiplied by, `[N, width]`."""
    ones = torch.ones_like(rows(n_rows, width, torch.float32))
    return residual(0 * ones, ones, width=width, dropout=dropout, seed=seed(at))[:, :width]


@pytest.mark.parametrize("uses", ["both", "wide", "narrow"])
def test_the_narrow_result_is_the_wide_one_rounded(uses: str) -> None:
    """The gradient of either reaches all that it is made of."""
    torch.manual_seed(0)
    x, branch = rows(9, 41, torch.float32), rows(9, 41, torch.bfloat16)
    leaves = [x, branch, vector(41, torch.float32), vector(41, torch.float32)]
    settings = {"width": 41, "dropout": 0.5, "seed": seed(1)}
    made = residual_norm(*leaves, **settings, narrow=torch.bfloat16)
    plain, _ = residual_norm(*leaves, **settings)
    assert torch.equal(made[0], plain)
    torch.testing.assert_close(made[1].float(), plain, rtol=0.01, atol=0)  # rounded or cut off
    used = {"both": (0, 1), "wide": (0,), "narrow": (1,)}[uses]
    outputs = [made[i] for i in used]
    grads = [torch.randn(9, 48, device=DEVICE).bfloat16() for _ in used]
    pairs = zip(grads, outputs, strict=True)
    got = torch.autograd.grad(outputs, leaves, [grad.to(out) for grad, out in pairs])
    total = torch.stack([grad.float() for grad in grads]).sum(0)
    for grad, wanted in zip(got, torch.autograd.grad(plain, leaves, total), strict=True):
        torch.testing.assert_close(grad.float(), wanted.float(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("n_rows", "width"), [(7, 41), (33, 410)])
def test_the_gradients_of_dropout_are_those_of_the_masked_computation(
    n_rows: int, width: int
) -> None:
    settings = {"width": width, "dropout": 0.3}
    x, branch = rows(n_rows, width, torch.float32), rows(n_rows, width, torch.float32)
    weight, bias = vector(width, torch.float32), vector(width, torch.float32)
    branch_bias = vector(width, torch.float32)
    scale = kept_scale(n_rows, width, dropout=0.3, at=5)

    def total() -> Tensor:
        return x[:, :width] + (branch[:, :width] + branch_bias) * scale

    how = {**settings, "branch_bias_D": branch_bias, "seed": seed(5)}
    assert_equal_and_zero_in_pads(
        lambda: residual(x, branch, **how), total, width, [x, branch, branch_bias]
    )
    assert_equal_and_zero_in_pads(
        lambda: residual_norm(x, branch, weight, bias, **how)[0],
        lambda: F.layer_norm(total(), (width,), weight, bias),
        width,
        [x, branch, branch_bias, weight, bias],
        rtol=1e-4,
        atol=1e-5,
    )
    zeros, ones = 0 * bias, torch.ones_like(x)
    hidden_scale = bias_relu_dropout(ones, zeros, **settings, seed=seed(6))[:, :width]
    assert_equal_and_zero_in_pads(
        lambda: bias_relu_dropout(x, bias, **settings, seed=seed(6)),
        lambda: (x[:, :width] + bias).relu() * hidden_scale,
        width,
        [x, bias],
        rtol=1e-5,
        atol=1e-5,
    )


def test_dropout_drops_its_share_independently_and_as_the_seed_says() -> None:
    scale = kept_scale(80, 410, dropout=0.25, at=1)
    values = torch.tensor([0.0, 1 / 0.75], device=DEVICE)
    torch.testing.assert_close(scale.unique(), values)
    assert torch.equal(scale, kept_scale(80, 410, dropout=0.25, at=1))
    dropped = scale == 0
    torch.testing.assert_close(dropped.float().mean().item(), 0.25, rtol=0, atol=0.01)
    others = [kept_scale(80, 410, dropout=0.25, at=other) for other in (2, (1 << 40) + 1)]
    pairs = [(dropped[:, :-k], dropped[:, k:]) for k in (1, 2, 3, 4, 256)]
    pairs += [(dropped[:-1], dropped[1:]), *((dropped, other == 0) for other in others)]
    for one, other in pairs:
        torch.testing.assert_close((one & other).float().mean().item(), 1 / 16, rtol=0, atol=0.01)
    hidden = bias_relu_dropout(
        torch.ones(80, 416, device=DEVICE),
        torch.zeros(410, device=DEVICE),
        width=410,
        dropout=0.25,
        seed=seed(1),
    )
    assert torch.equal(hidden[:, :410], scale), "however a kernel cuts rows into tiles"


def test_not_a_number_is_not_hidden() -> None:
    x = torch.tensor([[torch.nan, -1.0, 1.0, 7.0]], device=DEVICE)
    zeros = torch.zeros(3, device=DEVICE)
    assert bias_relu_dropout(x, zeros, width=3).isnan().tolist() == [[True, False, False, False]]
    assert norm(x, zeros, zeros, width=3).isnan().tolist() == [[True, True, True, False]]


def test_two_runs_are_equal_bit_by_bit() -> None:
    x, branch = rows(70, 41, torch.float32), rows(70, 41, torch.float32)
    weight, bias = vector(41, torch.float32), vector(41, torch.float32)

    def run() -> list[Tensor]:
        normal, _ = residual_norm(x, branch, weight, bias, width=41, dropout=0.1, seed=seed(3))
        out = bias_relu_dropout(normal, bias, width=41, dropout=0.1, seed=seed(4))
        return [out, *gradients(out, 41, [x, branch, weight, bias])]

    assert all(map(torch.equal, run(), run()))
