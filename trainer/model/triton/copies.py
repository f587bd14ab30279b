"""Copies of fp32 weights in the 16 bits that a GPU multiplies, for training.

Autocast would make them anew in every pass, and would convert every gradient by itself. Here the
update makes them, all at once, and the backward pass leaves the gradients of all matrices in 16
bits, to be converted all at once. The values are those that autocast gives.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def computed(weight: Tensor) -> Tensor:
    """Return a weight's copy, which takes the gradient in its place; the weight if it has none."""
    return getattr(weight, "computed", weight)


class Copies:
    """The copies of some weights, and the gradients that they take."""

    def __init__(
        self, weights: Sequence[Tensor], tables: Sequence[Tensor], dtype: torch.dtype
    ) -> None:
        """Copy weights, whose copies take their gradients, and tables, which take their own."""
        self._all = [*weights, *tables]
        self._copies = [
            _copy(weight, dtype, takes_gradient=weight.requires_grad) for weight in weights
        ]
        self._table_copies = [_copy(table, dtype, takes_gradient=False) for table in tables]
        self._trained = [weight for weight in weights if weight.requires_grad]
        self._gradients: list[Tensor] = []

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights as they are after an update."""
        torch._foreach_copy_([*self._copies, *self._table_copies], self._all)

    @torch.no_grad()
    def hand_over(self) -> None:
        """Add the gradients of the copies to those of the weights; called after a backward pass."""
        arrived = [_taken(computed(weight)) for weight in self._trained]
        if there := [weight.grad for weight in self._trained if weight.grad is not None]:
            torch._foreach_add_(there, arrived)
            return
        if not self._gradients:
            self._gradients = [torch.empty_like(weight) for weight in self._trained]
        torch._foreach_copy_(self._gradients, arrived)
        for weight, gradient in zip(self._trained, self._gradients, strict=True):
            weight.grad = gradient


def _copy(weight: Tensor, dtype: torch.dtype, *, takes_gradient: bool) -> Tensor:
    copy = weight.detach().to(dtype).requires_grad_(takes_gradient)
    weight.computed = copy  # type: ignore[attr-defined]
    return copy


def _taken(copy: Tensor) -> Tensor:
    """Return the gradient that a copy has, and take it away."""
    gradient, copy.grad = copy.grad, None
    assert gradient is not None, "a pass uses all weights"
    return gradient
