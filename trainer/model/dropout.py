"""Dropout: PyTorch's own, but on a CPU from fewer random bits, and with a byte per element kept."""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 1 << 16


class Kept(NamedTuple):
    """Which elements are left, and what makes up for the others."""

    mask: Tensor | None
    """uint8, 1 where an element is left; None where all are."""
    scale: float

    def of(self, x: Tensor) -> Tensor:
        """Drop elements of `x`, and scale the rest."""
        return x if self.mask is None else self.mask.to(x.dtype).mul_(x).mul_(self.scale)


def kept_at_random(shape: torch.Size, probability: float) -> Kept:
    """Draw what is left of a tensor on the CPU, seeded from torch's global generator.

    PyTorch draws a double for every element on a CPU, serially, which takes longer than the layer
    around it. Here one draw of 64 bits decides on four elements: `probability` is rounded to a
    multiple of 2^-16, and the others are scaled by exactly what that leaves.
    """
    n_dropped = round(probability * _LEVELS)
    seed = int(torch.empty((), dtype=torch.int64).random_())
    draws = np.random.SFC64(seed).random_raw(-(-shape.numel() // 4))
    mask = draws.view(np.uint16)[: shape.numel()] >= n_dropped
    scale = _LEVELS / (_LEVELS - n_dropped)
    return Kept(torch.from_numpy(mask.view(np.uint8)).view(shape), scale)


def dropout(x: Tensor, probability: float, *, training: bool = True) -> Tensor:
    """`x` with elements zeroed at random, by torch's global generator, and the others scaled up."""
    if not training or probability == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    kept = kept_at_random(x.shape, probability)
    left: Tensor = _Dropout.apply(x, *kept)  # type: ignore[no-untyped-call]
    return left


def relu_dropout(x: Tensor, probability: float, *, training: bool = True) -> Tensor:
    """`dropout(x.relu(), …)`, of which on a CPU a single tensor is kept."""
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
        """Return the gradient: elements that were kept are positive in the output itself."""
        (left,) = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grads[0], left, 0)
        return grad.mul_(ctx.scale), None, None
