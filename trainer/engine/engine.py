"""A model under DeepSpeed's engine: passes, steps, and what the run asks of it.

All methods are called by all ranks. At ZeRO stages 1 to 3 DeepSpeed waits for the GPU twice a step,
for the norm of the gradients, and once more at stage 3 in fp16, to look for infinite ones. At stage
0 DeepSpeed asks for nothing. `Engine.step` waits once, for the norm; not if the engine
`learns_late`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.deepspeed.file import ResolvedDs
from trainer.config.experiment import OptimConfig
from trainer.distributed import World
from trainer.engine import counters
from trainer.engine.full_state import FullState
from trainer.engine.gradients.loss_scale import LossScale
from trainer.engine.gradients.under_zero import zero_gradients_of
from trainer.engine.gradients.whole import WholeGradients, step_alone, taken_over
from trainer.engine.passes.unrolled import Unrolled
from trainer.memory_tree import check_made, check_returned
from trainer.model.precision import autocast_of, compute_dtype_of
from trainer.model.triton.copies import Copies
from trainer.protocol import Memory, Output, Segment, reading_memory


class Engine:
    """A model under DeepSpeed: forward, backward, step, and its full state."""

    def __init__(
        self,
        ds: Any,
        *,
        names: dict[int, str],
        optim: OptimConfig,
        resolved: ResolvedDs,
        world: World,
        copies: Copies | None = None,
    ) -> None:
        self.ds, self.world, self.resolved = ds, world, resolved
        self.gradients: WholeGradients | None = None  # at stage 0
        self.zero_gradients = zero_gradients_of(ds, stage=resolved.zero_stage)
        if resolved.zero_stage == 0:
            clip, world_size = optim.gradient_clipping, world.world_size
            self.gradients = taken_over(
                ds, resolved, clip=clip, world_size=world_size, copies=copies
            )
        self.full_state = FullState(
            ds,
            names=names,
            stage=resolved.zero_stage,
            rank=world.rank,
            world_size=world.world_size,
            when_written=None if copies is None else copies.refresh,
        )
        self.grad_norm: float | Tensor | None = None
        self._applied: bool | None = None
        self._has_checked_memory = False

    @property
    def dtype(self) -> torch.dtype:
        """Return the compute dtype, in which memory is kept."""
        return compute_dtype_of(self.resolved.precision)

    @property
    def slots(self) -> int:
        """Return the number of micro steps of a step."""
        return int(self.resolved.gradient_accumulation_steps)

    @property
    def lr(self) -> float:
        """Return the learning rate of the next update."""
        return float(self._base.param_groups[0]["lr"])

    @property
    def loss_scale(self) -> float:
        """Return the factor of the next step's loss in fp16, see `learned`; 1 otherwise."""
        if (scale := self._loss_scale) is not None:
            return scale.value
        return float(getattr(self.ds.optimizer, "loss_scale", 1.0))

    @property
    def model(self) -> Any:
        """Return the module that was built, a `trainer.protocol.RecurrentModel`."""
        module = self.ds.module
        return module.model if isinstance(module, Unrolled) else module

    def __call__(
        self,
        segment: Segment,
        memory: Memory,
        *,
        clamp_len: int | None,
        same_length: bool,
        **several: Any,
    ) -> Output:
        """Compute the forward pass; see `trainer.protocol.RecurrentModel`.

        An engine for several segments takes the arguments of `Unrolled.forward`, too.

        Raises:
            InputError: the memory cannot be carried on; checked at the first training pass only.
        """
        lengths = {"clamp_len": clamp_len, "same_length": same_length}
        output: Output = self.ds(segment, memory, **lengths, **several)
        if self.ds.module.training and not self._has_checked_memory:
            check_returned(output.memory, memory)
            self._has_checked_memory = True
        return output

    def empty_memory(self, n_streams: int, *, mem_len: int) -> Memory:
        """Return memory of streams that have read nothing, in the compute dtype."""
        memory: Memory = self.model.empty_memory(
            n_streams, mem_len=mem_len, dtype=self.dtype, device=self.world.device
        )
        if not self._has_checked_memory:
            check_made(memory, n_streams=n_streams)
        return memory

    def resized(self, memory: Memory, *, mem_len: int) -> Memory:
        """Return memory that holds `mem_len` tokens, the newest of those that it had."""
        resized: Memory = self.model.resized_memory(memory, mem_len=mem_len)
        return resized

    def reading_memory(self, n_rows: int, *, mem_len: int) -> Memory:
        """Return empty memory for reading a text with weights that do not change."""
        return reading_memory(
            self.model, n_rows, mem_len=mem_len, dtype=self.dtype, device=self.world.device
        )

    def train(self, mode: bool) -> None:
        """Switch dropout on or off."""
        if self.ds.module.training is not mode:  # the call below walks over all modules
            self.ds.train(mode)

    @contextmanager
    def predicting(self) -> Iterator[nn.Module]:
        """Lend the module for `predict`, in evaluation mode and the configured precision."""
        self.ds.eval()
        with autocast_of(self.resolved.precision, self.world.device), torch.no_grad():
            yield self.model

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of `loss` / `slots`; average them over ranks at the last slot."""
        self.ds.backward(loss)

    def step(self) -> None:
        """End a micro step; the last of a step with an update. See `learned`."""
        if not self.ds.is_gradient_accumulation_boundary():
            self.ds.step()
            return
        if self.zero_gradients is not None:
            self.grad_norm, self._applied = self.zero_gradients.update()
            return
        assert self.gradients is not None, "at stage 0"
        self.gradients.update(partial(step_alone, self.ds))

    def learned(self) -> bool | None:
        """Return whether the last update was applied; None if that was asked before.

        To be asked after `step` before the next one, and before the rate, the norm or the loss
        scale are. If `learns_late`, the device has long known when the next step's passes are on
        their way.
        """
        norm = None if self.gradients is None else self.gradients.learned()
        if norm is not None:
            self.grad_norm, self._applied = norm, math.isfinite(norm)
            if self._applied and self.ds.lr_scheduler is not None:
                self.ds.lr_scheduler.step()
        applied, self._applied = self._applied, None
        return applied

    def note_norms(self) -> None:
        """From now on have updates note the norm of each parameter's gradient; they wait for it."""
        for gradients in (self.gradients, self.zero_gradients):
            if gradients is not None:
                gradients.notes_norms = True

    @property
    def noted_norms(self) -> dict[str, float]:
        """Return the norm of each parameter's gradient at the last update, before clipping.

        See `note_norms`; the gradients are those of all ranks, without a loss scale.
        """
        gradients = self.gradients or self.zero_gradients
        noted = None if gradients is None else gradients.norms
        return dict(zip(self.full_state.shapes(), noted or [], strict=False))

    @property
    def learns_late(self) -> bool:
        """Return whether `learned` would wait right after `step`."""
        return self.gradients is not None and self.gradients.learns_late

    def destroy(self) -> None:
        """Release DeepSpeed's buffers; the engine cannot be used afterwards."""
        self.ds.destroy()

    def scalars(self) -> dict[str, Any]:
        """Return the engine's counters as plain values; see `load_scalars`."""
        own = {"optimizer_step": self.full_state.optimizer_step()}
        return own | counters.of(self.ds, self._loss_scale)

    def load_scalars(self, scalars: dict[str, Any], *, step: int, skipped_steps: int) -> None:
        """Continue from `scalars`; this configuration's rates and limits are kept."""
        self._applied = None
        if self.gradients is not None:
            self.gradients.drop()
        at = {"step": step, "skipped_steps": skipped_steps}
        counters.set_to(scalars, self.ds, self._loss_scale, **at)
        if self.zero_gradients is not None:
            self.zero_gradients.follow_scale()

    @property
    def _loss_scale(self) -> LossScale | None:
        return None if self.gradients is None else self.gradients.loss_scale

    @property
    def _base(self) -> torch.optim.Optimizer:
        base: torch.optim.Optimizer = self.ds.basic_optimizer
        return base
