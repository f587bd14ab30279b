"""Dropout: PyTorch's own, except on a CPU, where ours draws fewer random bits."""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 1 << 16


class Kept(NamedTuple):
    """The elements that dropout keeps, and the factor that makes up for the others."""

    mask: Tensor | None
    """uint8, 1 where an element is kept; None where all are."""
    scale: float

    def of(self, x: Tensor) -> Tensor:
        """Return `x` with its other elements set to zero, and the kept ones scaled."""
        return x if self.mask is None else self.mask.to(x.dtype).mul_(x).mul_(self.scale)


def kept_at_random(shape: torch.Size, probability: float) -> Kept:
    """Draw which elements to keep of a tensor on the CPU, seeded from torch's global generator.

    PyTorch draws a double for every element on a CPU, in one thread, which takes longer than the
    layer that calls it. Here one draw of 64 bits decides on four elements. So `probability` is
    rounded to a multiple of 2^-16, and the scale makes up for the rounded probability exactly.
    """
    n_dropped = round(probability * _LEVELS)
    seed = int(torch.empty((), dtype=torch.int64).random_())
    draws = np.random.SFC64(seed).random_raw(-(-shape.numel() // 4))
    mask = draws.view(np.uint16)[: shape.numel()] >= n_dropped
    scale = _LEVELS / (_LEVELS - n_dropped)
    return Kept(torch.from_numpy(mask.view(np.uint8)).view(shape), scale)


def dropout(x: Tensor, probability: float, *, training: bool = True) -> Tensor:
    """Return `x` with elements zeroed by torch's global generator, and the others scaled up."""
    if not training or probability == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    kept = kept_at_random(x.shape, probability)
    left: Tensor = _Dropout.apply(x, *kept)  # type: ignore[no-untyped-call]
    return left


def relu_dropout(x: Tensor, probability: float, *, training: bool = True) -> Tensor:
    """Return `dropout(x.relu(), …)`; on a CPU a single tensor is kept for the backward pass."""
    if not training or probability == 0 or x.device.type != "cpu":
        return dropout(x.relu(), probability, training=training)
    kept = kept_at_random(x.shape, probability)
    left: Tensor = _ReluDropout.apply(x, *kept)  # type: ignore[no-untyped-call]
    return left


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return Kept(mask, scale).of(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        return Kept(mask, ctx.scale).of(grads[0]), None, None


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        left = Kept(mask, scale).of(x).relu_()
        ctx.save_for_backward(left)
        ctx.scale = scale
        return left

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient, which passes exactly where the output is positive."""
        (left,) = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grads[0], left, 0)
        return grad.mul_(ctx.scale), None, None
