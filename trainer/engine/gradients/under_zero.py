"""Gradients at ZeRO stages 1 to 3; at stage 1 whole until a step ends, then reduced all at once.

DeepSpeed hangs a hook on every parameter, and a replayed CUDA graph runs no hook. At stage 1 the
hooks do nothing before the last backward pass of a step, unless the file wants gradients sent on
the way. So the hooks are taken off, and the reduction begins when the engine's step does. It is the
function that DeepSpeed has for gradients that several backward passes have left: it takes the
same parameters in the same order to the same buckets as its reduction after a backward pass.

DeepSpeed keeps a view of every parameter in autograd's graph, and with it the node that accumulates
the parameter's gradient, and with that the stream on which it was made: the one that no captured
stream may wait for. So the views leave the graph, and each pass makes its nodes on its own stream.

Private in DeepSpeed, and touched only here: the list of hooks, `_flush_coalesced_reduction_zero12`,
`scale_loss`, `_hp_mapping.lp_fragment`, and where a gradient lies after its reduction. A test holds
the weights and moments to those of DeepSpeed as it is.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.engine.gradients.whole import norms_of


class Outcome(NamedTuple):
    """Result of an update."""

    grad_norm: float | Tensor | None
    """The norm of all gradients before clipping; infinite if they were not finite."""
    applied: bool


class ZeroGradients:
    """The gradients of a model under ZeRO, from its backward pass to the update."""

    def __init__(self, ds: Any, *, stage: int) -> None:
        """Take charge of the gradients of a DeepSpeed engine at stage 1, 2 or 3."""
        self._ds, self._optimizer = ds, ds.optimizer
        self.early = _early(ds.optimizer, stage=stage)
        self._parameters = list(ds.module.parameters())
        self._scale_tensor: Tensor | None = None
        self.norms: list[float] | None = None
        """Norms of the parameters' gradients at the last update, if `notes_norms`."""
        self.notes_norms = False
        if self.early is not None:
            return
        ds.enable_backward_allreduce = False
        while self._optimizer._grad_acc_hooks:
            self._optimizer._grad_acc_hooks.pop().remove()
        for parameter in self._parameters:
            mapping = getattr(parameter, "_hp_mapping", None)
            if mapping is not None:
                mapping.lp_fragment = mapping.lp_fragment.detach()
        if ds.fp16_enabled():
            # A graph multiplies by what is in this tensor, not by the scale of when it was made.
            self._scale = float(self._optimizer.loss_scaler.cur_scale)
            self._scale_tensor = torch.tensor(self._scale, device=self._parameters[0].device)
            self._optimizer.loss_scaler.scale_loss = self._scale_tensor.mul

    def update(self) -> Outcome:
        """Reduce the gradients that are still whole, and end the step with an update. Collective.

        DeepSpeed lets a reduced gradient point into its own buffers. It is given aliases, so that
        gradients in which a graph leaves its results stay where they are.
        """
        if self.early is None:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.detach()
            self._optimizer.set_gradient_accumulation_boundary(True)
            self._ds._flush_coalesced_reduction_zero12(self._optimizer)
        if self.notes_norms:
            scale = float(self._optimizer.loss_scale)
            self.norms = norms_of(map(_full_gradient, self._parameters), scale=scale)
        self._ds.step()
        self.follow_scale()
        return Outcome(self._ds.get_global_grad_norm(), bool(self._ds.was_step_applied()))

    def follow_scale(self) -> None:
        """Let the next passes take the present loss scale, which an update or a load may change."""
        scale = float(self._optimizer.loss_scale)
        if self._scale_tensor is not None and scale != self._scale:
            self._scale = scale
            self._scale_tensor.fill_(scale)


def _full_gradient(parameter: Any) -> Tensor | None:
    """Return a parameter's gradient, averaged over ranks, from all ranks' parts. Collective."""
    if hasattr(parameter, "ds_id"):
        gradient: Tensor = parameter._z3_optimizer.get_fp32_grad_for_param(parameter)
    elif hasattr(parameter, "get_full_hp_grad"):
        gradient = parameter.get_full_hp_grad()
    else:
        return None
    return gradient


def zero_gradients_of(ds: Any, *, stage: int) -> ZeroGradients | None:
    """Return what takes charge of the gradients of DeepSpeed's engine; None at stage 0."""
    return ZeroGradients(ds, stage=stage) if stage > 0 else None


def _early(optimizer: Any, *, stage: int) -> str | None:
    """Return why gradients are reduced before a step ends, and what to change; None if not."""
    if stage > 1:
        return "ZeRO-2 and 3 reduce gradients on the way: take a DeepSpeed file of stage 0 or 1"
    if optimizer.overlap_comm:
        return "overlap_comm reduces gradients on the way: leave that key out"
    if optimizer.cpu_offload:
        return "an offloaded optimizer takes gradients on the way: leave offload_optimizer out"
    return None
