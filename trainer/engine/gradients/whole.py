"""Averaging, measuring and clipping gradients at ZeRO stage 0, in place of DeepSpeed.

At this stage DeepSpeed sends copies of the gradients, lets a NaN go into the weights, and clips in
a pass of its own.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.deepspeed.file import ResolvedDs
from trainer.engine.gradients.loss_scale import LossScale
from trainer.engine.gradients.reduction import average_gradients
from trainer.engine.host_copy import HostCopy
from trainer.engine.optimizers.adam import Adam
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
        loss_scale: LossScale | None = None,
    ) -> None:
        """Take charge of the gradients of a model.

        Args:
            module: the model.
            optimizer: the model's optimizer.
            clip: largest norm; 0 is no clipping.
            averages: whether to average over ranks here.
            world_size: number of ranks.
            copies: copies of weights, with which the model computes.
            loss_scale: the factor of the loss, and so of gradients until the update.
        """
        self._copies, self.loss_scale = copies, loss_scale
        self._outcome: HostCopy | None = None
        self.learns_late = False
        self.norms: list[float] | None = None
        """Norms of the parameters' gradients at the last update, if `notes_norms`."""
        self.notes_norms = False
        self._parameters = list(module.parameters())
        self._clip, self._averages, self._world_size = clip, averages, world_size
        is_fused = isinstance(optimizer, Adam) and optimizer.defaults["fused"]
        self._fused_adam = optimizer if isinstance(optimizer, Adam) and is_fused else None
        if self._fused_adam is not None and copies is not None:
            self._fused_adam.write_copies()
            self._copies = None

    def update(self, take: Callable[[], None]) -> None:
        """Average gradients over ranks, clip them and `take` the update; see `learned`. Collective.

        If the norm is not finite, the update changes nothing.
        """
        assert self._outcome is None, "what became of an update is asked before the next one"
        norm, scale, found_inf = self._mean_norm(), None, None
        if self.loss_scale is None:
            self._outcome = HostCopy(norm)
        else:
            scale = self.loss_scale.factor.clone()
            norm = norm / scale
            found_inf = _is_not_finite(norm)
            self.loss_scale.search(found_inf)
            self._outcome = HostCopy(torch.stack([norm, self.loss_scale.factor]))
        if self.notes_norms:
            self.norms = norms_of((p.grad for p in self._parameters), scale=scale)
        if self.learns_late:
            found_inf = _is_not_finite(norm) if found_inf is None else found_inf
            self._guard(norm, scale, found_inf=found_inf)
        elif math.isfinite(value := _numbers(self._outcome)[0]):
            self._scale_down(norm, scale, value=value)
        else:  # without gradients the update leaves every parameter as it is
            for parameter in self._parameters:
                parameter.grad = None
        take()
        if self._copies is not None:
            self._copies.refresh()

    def learned(self) -> float | None:
        """Return the norm of the last update's gradients; None if that was asked before.

        The value of the loss scale is then known, too.
        """
        outcome, self._outcome = self._outcome, None
        if outcome is None:
            return None
        norm, *scale = _numbers(outcome)
        if self.loss_scale is not None:
            (self.loss_scale.value,) = scale
        return norm

    def learn_late(self) -> None:
        """From now on have updates look at the norm on the device, if the optimizer can."""
        self.learns_late = self._fused_adam is not None

    def drop(self) -> None:
        """Forget the last update, after which another state was loaded."""
        self._outcome = None

    def _mean_norm(self) -> Tensor:
        if self._averages:
            average_gradients(self._parameters, world_size=self._world_size)
        return nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])

    def _guard(self, norm: Tensor, scale: Tensor | None, *, found_inf: Tensor) -> None:
        """Have the update divide gradients by their loss scale and clip them, without a wait.

        If `found_inf` is 1, the update changes nothing.
        """
        assert self._fused_adam is not None
        self._fused_adam.found_inf = found_inf
        exceeding = None
        if self._clip > 0:  # a factor of 1 changes nothing
            exceeding = ((norm + CLIP_EPS) / self._clip).clamp_min(1.0)
        self._fused_adam.grad_scale = _product(exceeding, scale)

    def _scale_down(self, norm: Tensor, scale: Tensor | None, *, value: float) -> None:
        """Divide gradients by their loss scale and clip them, by the time of the update.

        The norm is without the scale; `value` is the norm on the host.
        """
        if self._fused_adam is not None:  # it scales while it reads: no pass of its own
            exceeds = 0 < self._clip < value + CLIP_EPS
            exceeding = (norm + CLIP_EPS) / self._clip if exceeds else None
            self._fused_adam.grad_scale = _product(exceeding, scale)
            return
        if scale is not None:
            torch._foreach_div_([p.grad for p in self._parameters if p.grad is not None], scale)
        if self._clip > 0:
            nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm)


def norms_of(gradients: Iterable[Tensor | None], *, scale: Tensor | float | None) -> list[float]:
    """Return the norm of each gradient without its loss scale, 0 without a gradient; waits."""
    factor = 1.0 if scale is None else float(scale)
    return [0.0 if g is None else float(g.float().norm()) / factor for g in gradients]


def _is_not_finite(norm: Tensor) -> Tensor:
    """Return 1 or 0, as the fused Adam and PyTorch's scaler take it."""
    return (~norm.isfinite()).float()


def _numbers(outcome: HostCopy) -> list[float]:
    numbers: list[float] = outcome.read().flatten().tolist()
    return numbers


def _product(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Return the product of two factors, of which None is 1."""
    if one is None or other is None:
        return other if one is None else one
    return one * other


def taken_over(
    ds: Any, resolved: ResolvedDs, *, clip: float, world_size: int, copies: Copies | None
) -> WholeGradients:
    """Take charge of the gradients of DeepSpeed's engine `ds`; see `WholeGradients`."""
    # DeepSpeed's average copies all gradients twice, but ours cannot change their dtype.
    averages = not resolved.values.get("communication_data_type")
    ds.enable_backward_allreduce = not averages
    scaler = ds.torch_autocast_z0_gradscaler
    return WholeGradients(
        ds.module,
        ds.basic_optimizer,
        clip=clip,
        averages=averages,
        world_size=world_size,
        copies=copies,
        loss_scale=None
        if scaler is None
        else LossScale(scaler, resolved.loss_scale, device=ds.device),
    )


def step_alone(ds: Any) -> None:
    """Step without the schedule, and without the scaler, see `LossScale`.

    The schedule goes on when it is known that the update was applied.
    """
    kept = ds.lr_scheduler, ds.torch_autocast_z0_gradscaler
    ds.lr_scheduler = ds.torch_autocast_z0_gradscaler = None
    ds.step()
    ds.lr_scheduler, ds.torch_autocast_z0_gradscaler = kept
