"""DeepSpeed behind one seam: the only file that imports it. All functions are called by all ranks.

At ZeRO stages 1 to 3 DeepSpeed waits for the GPU twice a step, for the norm of the gradients, and
once more at stage 3 in fp16, to look for infinite ones. At stage 0 DeepSpeed asks for nothing.
`Engine.step` waits once, for the norm; not if the engine `learns_late`.
"""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.ops.adam import DeepSpeedCPUAdam
from deepspeed.runtime import torch_autocast
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor, nn

from trainer.config.deepspeed import ResolvedDs
from trainer.config.experiment import OptimConfig
from trainer.config.precision import is_autocast
from trainer.distributed import Control, World, meet, refuse_shared_gpus
from trainer.engine import counters
from trainer.engine.full_state import FullState
from trainer.engine.lamb import Lamb, matrices
from trainer.engine.loss_scale import LossScale
from trainer.engine.optimizers import optimizer_of
from trainer.engine.schedules import cosine_of
from trainer.engine.whole_gradients import WholeGradients, step_alone, taken_over
from trainer.engine.zero import cut, decide_by_norm, layers_are_called_once, refuse_frozen
from trainer.engine.zero_gradients import zero_gradients_of
from trainer.errors import InputError
from trainer.memory_tree import check_made, check_returned
from trainer.model.initialise import Fills
from trainer.model.layer import Layer
from trainer.model.precision import autocast_of, compute_dtype_of
from trainer.model.triton.copies import Copies
from trainer.model.triton.storage import copies_of, on_kernels, store_aligned
from trainer.protocol import Memory, Output, Segment, reading_memory


def connect(world: World, *, timeout_s: float) -> World:
    """Join the process group of all ranks, and make DeepSpeed use it.

    Raises:
        InputError: the ranks cannot meet, or have the same GPU.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed itself makes the deprecated calls, so the warnings help no user.
    deprecated = r"`torch\.distributed\.\w+` is deprecated"
    warnings.filterwarnings("ignore", message=deprecated, category=FutureWarning)
    if world.device.type == "cpu":
        # Shared-memory collectives would be compiled at start (45 s) and need /dev/shm per rank.
        getattr(deepspeed.ops, "__compatible_ops__", {})["deepspeed_shm_comm"] = False
    timeout = timedelta(seconds=timeout_s)
    backend = "gloo" if world.device.type == "cpu" else "nccl"
    if not dist.is_initialized():
        meet(world, backend=backend, timeout=timeout)
    deepspeed.init_distributed(
        dist_backend=backend,
        auto_mpi_discovery=False,
        verbose=False,
        timeout=timeout,
        rank=world.rank,
        world_size=world.world_size,
    )
    world = replace(world, control=Control(dist.new_group(backend="gloo", timeout=timeout)))
    refuse_shared_gpus(world)
    return world


def disconnect() -> None:
    """Leave the process group, and let DeepSpeed forget it: another may be made afterwards."""
    if dist.is_initialized():
        deepspeed.comm.destroy_process_group()


def check_device(resolved: ResolvedDs, device: torch.device) -> None:
    """Refuse a precision that `device` lacks, and a kind of device other than DeepSpeed's.

    Raises:
        InputError: names the configuration to use instead, or asks for a new process.
    """
    accelerator = get_accelerator()
    if (chosen := accelerator.device_name()) != device.type:
        raise InputError(
            f"DeepSpeed computes on {chosen} in this process, which has used it before: train on "
            f"{device.type} in a new process (in a notebook, restart its kernel)"
        )
    has = {"fp16": accelerator.is_fp16_supported, "bf16": accelerator.is_bf16_supported}
    needed = "fp16" if resolved.precision == "fp16_autocast" else resolved.precision
    if needed in has and not has[needed]():
        same = "zero0_bf16_autocast" if is_autocast(resolved.precision) else "zero1_bf16"
        other = "zero0_fp16_autocast" if has["fp16"]() else "zero0_fp32"
        instead = same if has["bf16"]() else other
        raise InputError(
            f"precision {resolved.precision} is not supported on this {device.type}: "
            f"use --deepspeed-config {instead}"
        )


def build(
    model: nn.Module,
    *,
    optim: OptimConfig,
    max_steps: int,
    resolved: ResolvedDs,
    world: World,
    fills: Fills | None = None,
) -> "Engine":
    """Wrap `model` for training, and move it to `world.device` in the configured precision.

    At stage 3 the model may be on `meta`; `fills` then fills the parts that this rank keeps.

    Raises:
        InputError: ZeRO could not save all of the model's weights.
    """
    config = dict(resolved.for_deepspeed)
    if resolved.zero_stage == 0:
        config["gradient_clipping"] = 0.0  # Engine.step clips, after looking for a NaN
    names = {id(p): name for name, p in model.named_parameters()}
    lamb_matrices = matrices(model)
    stage, dtype = resolved.zero_stage, compute_dtype_of(resolved.precision)
    on_a_gpu = on_kernels(model, world.device, dtype)
    if on_a_gpu and stage < 3:
        store_aligned(model)
    if stage > 0:
        refuse_frozen(model, stage=stage)
    if fills is not None:
        cut(fills, zero_init=deepspeed.zero.Init, resolved=resolved, world=world)
    optimizer = optimizer_of(list(model.parameters()), optim, resolved, offloaded=DeepSpeedCPUAdam)
    if stage == 3 and layers_are_called_once(model):
        # A back end reads a layer's weights itself, so they are gathered together.
        deepspeed.utils.set_z3_leaf_modules(model, [Layer])
    is_ours = resolved.schedule.type == "cosine"
    schedule = cosine_of(optim, max_steps=max_steps) if is_ours else None
    given = {"model": model, "optimizer": optimizer, "lr_scheduler": schedule}
    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False  # or ZeRO takes an earlier engine's scaler
    ds, *_ = deepspeed.initialize(**given, config=config, dist_init_required=False)
    if isinstance(ds.optimizer, DeepSpeedZeroOptimizer) and not ds.optimizer.cpu_offload:
        decide_by_norm(ds.optimizer)  # with offload DeepSpeed looks at no parameter by itself
    copies = None
    if on_a_gpu and stage == 0 and is_autocast(resolved.precision):
        copies = copies_of(model, dtype)
    engine = Engine(ds, names=names, optim=optim, resolved=resolved, world=world, copies=copies)
    if stage == 0:
        # Moments last as long as the run. If they were made in the first step, they would lie
        # between tensors that come and go, and the heap would grow by the size of all gradients.
        engine.full_state.create_moments(0)
    if isinstance(optimizer, Lamb):
        is_shared_out = stage > 0 and world.world_size > 1
        optimizer.cut(
            engine.full_state.fragments(),
            matrices=lamb_matrices,
            sum_over_ranks=dist.all_reduce if is_shared_out else None,
        )
    return engine


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

    def __call__(
        self, segment: Segment, memory: Memory, *, clamp_len: int | None, same_length: bool
    ) -> Output:
        """Compute the forward pass; see `trainer.protocol.RecurrentModel`.

        Raises:
            InputError: the memory cannot be carried on; checked at the first training pass only.
        """
        output: Output = self.ds(segment, memory, clamp_len=clamp_len, same_length=same_length)
        if self.ds.module.training and not self._has_checked_memory:
            check_returned(output.memory, memory)
            self._has_checked_memory = True
        return output

    def empty_memory(self, n_streams: int, *, mem_len: int) -> Memory:
        """Return memory of streams that have read nothing, in the compute dtype."""
        memory: Memory = self.ds.module.empty_memory(
            n_streams, mem_len=mem_len, dtype=self.dtype, device=self.world.device
        )
        if not self._has_checked_memory:
            check_made(memory, n_streams=n_streams)
        return memory

    def reading_memory(self, n_rows: int, *, mem_len: int) -> Memory:
        """Return empty memory for reading a text with weights that do not change."""
        return reading_memory(
            self.ds.module, n_rows, mem_len=mem_len, dtype=self.dtype, device=self.world.device
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
            yield self.ds.module

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of `loss` / `slots`; average them over ranks at the last slot."""
        self.ds.backward(loss)
        if self.gradients is not None:
            self.gradients.arrive()

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
