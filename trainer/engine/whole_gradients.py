"""Averages, measures and clips gradients at ZeRO stage 0, in place of DeepSpeed.

There it sends copies of them, looks for no NaN, which would go into the weights, and clips in a
pass of its own.
"""

import torch
from torch import Tensor, nn

from trainer.engine.adam import Adam
from trainer.engine.reduction import average_gradients

#: What PyTorch's clipping adds to the norm.
CLIP_EPS = 1e-6


class WholeGradients:
    """Those of a model, from its backward pass to the update."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        clip: float,
        averages: bool,
        world_size: int,
    ) -> None:
        """Take over the gradients of a model.

        Args:
            module: the model.
            optimizer: what updates it.
            clip: largest norm; 0 is no clipping.
            averages: whether ranks are averaged here.
            world_size: number of ranks.
        """
        self._parameters = list(module.parameters())
        self._clip, self._averages, self._world_size = clip, averages, world_size
        is_fused = isinstance(optimizer, Adam) and optimizer.defaults["fused"]
        self._fused_adam = optimizer if isinstance(optimizer, Adam) and is_fused else None

    def norm(self) -> Tensor:
        """Average gradients over ranks, and return the norm of the means, a scalar. Collective."""
        if self._averages:
            average_gradients(self._parameters, world_size=self._world_size)
        return nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])

    def clip(self, norm: Tensor) -> None:
        """Have them clipped, of which this is the norm, when the update comes."""
        if self._fused_adam is not None:  # which reads them anyway
            exceeds = 0 < self._clip < float(norm) + CLIP_EPS
            self._fused_adam.grad_scale = (norm + CLIP_EPS) / self._clip if exceeds else None
        elif self._clip > 0:
            nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm)

    def forget(self) -> None:
        """Leave none: the update then passes over all parameters."""
        for parameter in self._parameters:
            parameter.grad = None
