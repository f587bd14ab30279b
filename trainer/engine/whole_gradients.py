"""Averaging, measuring and clipping gradients at ZeRO stage 0, in place of DeepSpeed.

At this stage DeepSpeed sends copies of the gradients, lets a NaN go into the weights, and clips in
a pass of its own.
"""

import torch
from torch import Tensor, nn

from trainer.engine.adam import Adam
from trainer.engine.reduction import average_gradients
from trainer.model.triton.copies import Copies

#: PyTorch's clipping adds this to the norm.
CLIP_EPS = 1e-6


class WholeGradients:
    """The gradients of a model, from its backward pass to the update."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        clip: float,
        averages: bool,
        world_size: int,
        copies: Copies | None = None,
    ) -> None:
        """Take charge of the gradients of a model.

        Args:
            module: the model.
            optimizer: the model's optimizer.
            clip: largest norm; 0 is no clipping.
            averages: whether to average over ranks here.
            world_size: number of ranks.
            copies: copies of weights with which the model computes, which take their gradients.
        """
        self._copies = copies
        self._parameters = list(module.parameters())
        self._clip, self._averages, self._world_size = clip, averages, world_size
        is_fused = isinstance(optimizer, Adam) and optimizer.defaults["fused"]
        self._fused_adam = optimizer if isinstance(optimizer, Adam) and is_fused else None

    def arrive(self) -> None:
        """Collect the gradients of a backward pass."""
        if self._copies is not None:
            self._copies.hand_over()

    def norm(self) -> Tensor:
        """Average gradients over ranks, and return the norm of the means, a scalar. Collective."""
        if self._averages:
            average_gradients(self._parameters, world_size=self._world_size)
        return nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])

    def clip(self, norm: Tensor, *, value: float) -> None:
        """Clip the gradients by the time of the update; `value` is their `norm` on the host."""
        if self._fused_adam is not None:  # it scales while it reads: no pass of its own
            exceeds = 0 < self._clip < value + CLIP_EPS
            self._fused_adam.grad_scale = (norm + CLIP_EPS) / self._clip if exceeds else None
        elif self._clip > 0:
            nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm)

    def used(self) -> None:
        """Let the model compute with the weights as they are after an update."""
        if self._copies is not None:
            self._copies.refresh()

    def forget(self) -> None:
        """Delete all gradients: the update then leaves every parameter as it is."""
        for parameter in self._parameters:
            parameter.grad = None
