"""Products with weights, whose gradients come in the weights' own dtype.

A GPU sums 16-bit products in fp32. Autograd would round the gradient of an fp32 weight to 16 bits,
and convert it in a pass of its own; here the product writes its sums as they are.

N rows (all dimensions but the last) · I and O elements of a row before and after.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.backend import compute_dtype
from trainer.model.triton.alignment import aligned_weight
from trainer.model.triton.copies import computed


def linear(module: nn.Linear, x: Tensor, *, n_in: int = 1, n_out: int = 1) -> Tensor:
    """Return a linear layer's output without its bias, `[..., O]`, in aligned rows.

    Args:
        module: the layer, of which only the weight is used.
        x: `[..., I]`, aligned rows.
        n_in: see `aligned_weight`.
        n_out: likewise.
    """
    weight, values = _weight(module, n_in=n_in, n_out=n_out)
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        if not torch.is_grad_enabled():
            return F.linear(x.to(dtype), values.to(dtype))
        out: Tensor = _Linear.apply(x.to(dtype), weight, values)  # type: ignore[no-untyped-call]
        return out


def twice_linear(
    module: nn.Linear, other: nn.Linear, new: Tensor, old: Tensor, *, n_out: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `module`'s output for `new`, then `other`'s for `old` and for `new`.

    The gradients of `new` are summed by the product that makes the second of them.

    Args:
        module: as in `linear`.
        other: likewise.
        new: input of both layers.
        old: another input of `other`.
        n_out: of each layer, see `linear`.
    """
    pairs = [_weight(m, n_in=1, n_out=n) for m, n in zip((module, other), n_out, strict=True)]
    dtype = compute_dtype(new)
    inputs = new.to(dtype), old.to(dtype)
    with torch.autocast(new.device.type, enabled=False):
        made: tuple[Tensor, Tensor, Tensor] = _TwiceLinear.apply(  # type: ignore[no-untyped-call]
            *inputs, *(weight for weight, _ in pairs), [values for _, values in pairs]
        )
        return made


def multiply(a_ON: Tensor, b_NI: Tensor, *, out: Tensor) -> None:
    """Set `out`, `[O, I]`, to the first I columns of a product.

    No copy is made where a GPU can write the product in the dtype of `out`.
    """
    width = out.shape[1]
    if width != b_NI.shape[1] or out.dtype not in (a_ON.dtype, torch.float32):
        out.copy_((a_ON @ b_NI)[:, :width])
    elif out.dtype == a_ON.dtype:
        torch.mm(a_ON, b_NI, out=out)
    else:
        _multiply_widely(a_ON, b_NI, out=out)


def _multiply_widely(a_ON: Tensor, b_NI: Tensor, *, out: Tensor) -> None:
    """Set `out` to a product of 16-bit numbers, as it is summed in fp32."""
    fp32 = torch.float32
    if a_ON.is_cuda:
        torch.mm(a_ON, b_NI, out_dtype=fp32, out=out)
    else:  # PyTorch has it on CUDA alone
        torch.mm(a_ON.to(fp32), b_NI.to(fp32), out=out)


def _weight(module: nn.Linear, *, n_in: int, n_out: int) -> tuple[Tensor, Tensor]:
    """Return a layer's weight in aligned rows, and what to compute with: the weight or its copy."""
    weight = aligned_weight(module.weight, n_in=n_in, n_out=n_out)
    values = computed(module.weight)
    return weight, weight if values is module.weight else values


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, values_OI: Tensor) -> Tensor:
        """Return `[..., O]`, as `x` is."""
        ctx.save_for_backward(x, weight_OI, values_OI)
        return F.linear(x, values_OI.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of `x` and the weight."""
        x, weight_OI, values_OI = ctx.saved_tensors
        d_out = grads[0]
        d_x = d_out @ values_OI.to(x.dtype) if ctx.needs_input_grad[0] else None
        is_trained = ctx.needs_input_grad[1]
        return d_x, _of_weight(weight_OI, d_out, x) if is_trained else None, None


class _TwiceLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        new: Tensor,
        old: Tensor,
        weight_OI: Tensor,
        other_OI: Tensor,
        values: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return three products, `[..., O]` each."""
        ctx.save_for_backward(new, old, weight_OI, other_OI)
        ctx.values = values
        values_OI, other_values_OI = (x.to(new.dtype) for x in values)
        return (
            F.linear(new, values_OI),
            F.linear(old, other_values_OI),
            F.linear(new, other_values_OI),
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of both inputs and both weights."""
        new, old, weight_OI, other_OI = ctx.saved_tensors
        values_OI, other_values_OI = (x.to(new.dtype) for x in ctx.values)
        d_out, d_of_old, d_of_new = grads
        d_new = (d_of_new @ other_values_OI).flatten(0, -2)
        d_new = torch.addmm(d_new, d_out.flatten(0, -2), values_OI).view_as(new)
        d_old = d_of_old @ other_values_OI if ctx.needs_input_grad[1] else None
        d_weight_OI = d_other_OI = None
        if ctx.needs_input_grad[2]:
            d_weight_OI = _of_weight(weight_OI, d_out, new)
        if ctx.needs_input_grad[3]:
            d_other_OI = _of_weight(other_OI, d_of_old, old)
            d_other_OI += _of_weight(other_OI, d_of_new, new)
        return d_new, d_old, d_weight_OI, d_other_OI, None


def _of_weight(weight_OI: Tensor, d_out: Tensor, x: Tensor) -> Tensor:
    d_weight_OI = torch.empty_like(weight_OI)
    multiply(d_out.flatten(0, -2).t(), x.flatten(0, -2), out=d_weight_OI)
    return d_weight_OI
