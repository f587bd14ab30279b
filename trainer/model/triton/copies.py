"""Copies of fp32 weights in the 16 bits that a GPU multiplies, for training.

Autocast would make them anew in every pass. Here the update makes them, all at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def computed(weight: Tensor) -> Tensor:
    """Return a weight's copy, with which to compute; the weight itself if it has none."""
    return getattr(weight, "computed", weight)


class Copies:
    """The copies of some weights; the weights themselves take the gradients."""

    def __init__(self, weights: Sequence[Tensor], dtype: torch.dtype) -> None:
        self._weights = list(weights)
        self._copies = [weight.detach().to(dtype) for weight in weights]
        for weight, copy in zip(weights, self._copies, strict=True):
            weight.computed = copy  # type: ignore[attr-defined]

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights as they are after an update."""
        torch._foreach_copy_(self._copies, self._weights)
