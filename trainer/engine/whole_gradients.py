"""Averaging, measuring and clipping gradients at ZeRO stage 0, in place of DeepSpeed.

At this stage DeepSpeed sends copies of the gradients, lets a NaN go into the weights, and clips in
a pass of its own.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.deepspeed import ResolvedDs
from trainer.engine.adam import Adam
from trainer.engine.host_copy import HostCopy
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
        self._norm: HostCopy | None = None
        self.learns_late = False
        self._parameters = list(module.parameters())
        self._clip, self._averages, self._world_size = clip, averages, world_size
        is_fused = isinstance(optimizer, Adam) and optimizer.defaults["fused"]
        self._fused_adam = optimizer if isinstance(optimizer, Adam) and is_fused else None

    def arrive(self) -> None:
        """Collect the gradients of a backward pass."""
        if self._copies is not None:
            self._copies.hand_over()

    def update(self, take: Callable[[], None]) -> None:
        """Average gradients over ranks, clip them and `take` the update; see `learned`. Collective.

        If the norm is not finite, the update changes nothing.
        """
        assert self._norm is None, "what became of an update is asked before the next one"
        norm = self._mean_norm()
        self._norm = HostCopy(norm)
        if self.learns_late:
            self._guard(norm)
        elif math.isfinite(value := float(self._norm.read())):
            self._scale_down(norm, value=value)
        else:  # without gradients the update leaves every parameter as it is
            for parameter in self._parameters:
                parameter.grad = None
        take()
        if self._copies is not None:
            self._copies.refresh()

    def learned(self) -> float | None:
        """Return the norm of the last update's gradients; None if that was asked before."""
        norm, self._norm = self._norm, None
        return None if norm is None else float(norm.read())

    def learn_late(self) -> None:
        """From now on have updates look at the norm on the device, if the optimizer can."""
        self.learns_late = self._fused_adam is not None

    def drop(self) -> None:
        """Forget the last update, after which another state was loaded."""
        self._norm = None

    def _mean_norm(self) -> Tensor:
        if self._averages:
            average_gradients(self._parameters, world_size=self._world_size)
        return nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])

    def _guard(self, norm: Tensor) -> None:
        """Have the update clip, or change nothing if the norm is not finite, without a wait."""
        assert self._fused_adam is not None
        self._fused_adam.found_inf = (~norm.isfinite()).float()
        if self._clip > 0:  # a factor of 1 changes nothing
            self._fused_adam.grad_scale = ((norm + CLIP_EPS) / self._clip).clamp_min(1.0)

    def _scale_down(self, norm: Tensor, *, value: float) -> None:
        """Clip the gradients by the time of the update; `value` is their `norm` on the host."""
        if self._fused_adam is not None:  # it scales while it reads: no pass of its own
            exceeds = 0 < self._clip < value + CLIP_EPS
            self._fused_adam.grad_scale = (norm + CLIP_EPS) / self._clip if exceeds else None
        elif self._clip > 0:
            nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm)


def taken_over(
    ds: Any, resolved: ResolvedDs, *, clip: float, world_size: int, copies: Copies | None
) -> WholeGradients:
    """Take charge of the gradients of DeepSpeed's engine `ds`; see `WholeGradients`."""
    # DeepSpeed's average copies all gradients twice, but ours cannot change their dtype.
    averages = not resolved.values.get("communication_data_type")
    ds.enable_backward_allreduce = not averages
    return WholeGradients(
        ds.module,
        ds.basic_optimizer,
        clip=clip,
        averages=averages,
        world_size=world_size,
        copies=copies,
    )


def step_alone(ds: Any) -> None:
    """Step without the schedule, which goes on when it is known that the update was applied."""
    scheduler, ds.lr_scheduler = ds.lr_scheduler, None
    ds.step()
    ds.lr_scheduler = scheduler
