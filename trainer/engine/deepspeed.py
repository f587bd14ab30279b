"""DeepSpeed behind one seam: the only file that imports it.

All functions are called by all ranks.

At ZeRO stages 1 to 3 DeepSpeed waits for the GPU twice a step, for the norm of the gradients, and
once more at stage 3 in fp16, to look for infinite ones. At stage 0 DeepSpeed asks for nothing, and
`Engine.step` waits once, for the norm.
"""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.ops.adam import DeepSpeedCPUAdam
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor, nn

from trainer.config.deepspeed import ResolvedDs
from trainer.config.experiment import OptimConfig
from trainer.distributed import Control, World, meet, refuse_shared_gpus
from trainer.engine import counters
from trainer.engine.adam import Adam
from trainer.engine.full_state import FullState
from trainer.engine.lamb import Lamb, matrices
from trainer.engine.schedules import cosine_of
from trainer.engine.whole_gradients import WholeGradients
from trainer.engine.zero import cut, decide_by_norm, layers_are_called_once, refuse_frozen
from trainer.errors import InputError
from trainer.memory_tree import check_made, check_returned
from trainer.model.initialise import Fills
from trainer.model.layer import Layer
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
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def check_device(resolved: ResolvedDs, device: torch.device) -> None:
    """Refuse a precision that `device` does not have.

    Raises:
        InputError: the message names the configuration to use instead.
    """
    accelerator = get_accelerator()
    has = {"fp16": accelerator.is_fp16_supported, "bf16": accelerator.is_bf16_supported}
    if resolved.precision in has and not has[resolved.precision]():
        instead = "zero1_bf16" if has["bf16"]() else "zero0_fp32"
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
    is_cosine = resolved.schedule.type == "cosine"
    config = dict(resolved.for_deepspeed)
    if resolved.zero_stage == 0:
        config["gradient_clipping"] = 0.0  # Engine.step clips, after looking for a NaN
    names = {id(p): name for name, p in model.named_parameters()}
    lamb_matrices = matrices(model)
    if resolved.zero_stage > 0:
        refuse_frozen(model, stage=resolved.zero_stage)
    if fills is not None:
        cut(fills, zero_init=deepspeed.zero.Init, resolved=resolved, world=world)
    optimizer = _optimizer(list(model.parameters()), optim, resolved)
    if resolved.zero_stage == 3 and layers_are_called_once(model):
        # A back end reads a layer's weights itself, so they are gathered together.
        deepspeed.utils.set_z3_leaf_modules(model, [Layer])
    ds, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config=config,
        lr_scheduler=cosine_of(optim, max_steps=max_steps) if is_cosine else None,
        dist_init_required=False,
    )
    if isinstance(ds.optimizer, DeepSpeedZeroOptimizer) and not ds.optimizer.cpu_offload:
        decide_by_norm(ds.optimizer)  # with offload DeepSpeed looks at no parameter by itself
    engine = Engine(ds, names=names, optim=optim, resolved=resolved, world=world)
    if resolved.zero_stage == 0:
        # Moments last as long as the run. If they were made in the first step, they would lie
        # between tensors that come and go, and the heap would grow by the size of all gradients.
        engine.full_state.create_moments(0)
    if isinstance(optimizer, Lamb):
        is_shared_out = resolved.zero_stage > 0 and world.world_size > 1
        optimizer.cut(
            engine.full_state.fragments(),
            matrices=lamb_matrices,
            sum_over_ranks=dist.all_reduce if is_shared_out else None,
        )
    return engine


def _optimizer(
    parameters: list[nn.Parameter], optim: OptimConfig, resolved: ResolvedDs
) -> torch.optim.Optimizer:
    choice = resolved.optimizer
    settings: dict[str, Any] = {
        "lr": optim.lr,
        "betas": optim.betas,
        "eps": optim.eps,
        "weight_decay": optim.weight_decay,
    }
    if optim.type == "Lamb":
        return Lamb(parameters, **settings)
    decoupled = {"Adam": False, "AdamW": True}[optim.type]
    if choice.offload:
        offloaded: torch.optim.Optimizer = DeepSpeedCPUAdam(
            parameters, adamw_mode=decoupled, **settings
        )
        return offloaded
    fused = True if choice.fused is None else choice.fused
    if resolved.zero_stage == 0:
        return Adam(parameters, fused=fused, decoupled_weight_decay=decoupled, **settings)
    # DeepSpeed's ZeRO accepts only PyTorch's own class, and imports the compiler anyway.
    adam = torch.optim.AdamW if decoupled else torch.optim.Adam
    return adam(parameters, fused=fused, **settings)


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
    ) -> None:
        self.ds, self.world, self.resolved = ds, world, resolved
        self._gradients: WholeGradients | None = None
        if resolved.zero_stage == 0:
            # DeepSpeed's average copies all gradients twice, but ours cannot change their dtype.
            averages = not resolved.values.get("communication_data_type")
            ds.enable_backward_allreduce = not averages
            self._gradients = WholeGradients(
                ds.module,
                self._base,
                clip=optim.gradient_clipping,
                averages=averages,
                world_size=world.world_size,
            )
        self.full_state = FullState(
            ds,
            names=names,
            stage=resolved.zero_stage,
            rank=world.rank,
            world_size=world.world_size,
        )
        self.grad_norm: float | Tensor | None = None
        self._has_checked_memory = False

    @property
    def dtype(self) -> torch.dtype:
        """Return the compute dtype, in which memory is kept."""
        return {"fp32": torch.float32, "fp16": torch.float16}.get(
            self.resolved.precision, torch.bfloat16
        )

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
        """Return the factor of the loss in fp16; 1 otherwise."""
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
        autocast = torch.autocast(
            self.world.device.type, torch.bfloat16, self.resolved.precision == "bf16_autocast"
        )
        with autocast, torch.no_grad():
            yield self.ds.module

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of `loss` / `slots`; average them over ranks at the last slot."""
        self.ds.backward(loss)

    def step(self) -> bool | None:
        """End a micro step; the last of a step with an update.

        Returns:
            Whether the update was applied, or None if none was due.
        """
        if not self.ds.is_gradient_accumulation_boundary():
            self.ds.step()
            return None
        if self._gradients is None:
            self.ds.step()
            self.grad_norm = self.ds.get_global_grad_norm()
            return bool(self.ds.was_step_applied())
        norm = self._gradients.norm()
        self.grad_norm = float(norm)  # the only wait for the device
        applied = math.isfinite(self.grad_norm)
        scheduler = self.ds.lr_scheduler
        if applied:
            self._gradients.clip(norm, value=self.grad_norm)
        else:  # without gradients the update changes nothing, and the schedule stays where it is
            self.ds.lr_scheduler = None
            self._gradients.forget()
        self.ds.step()
        self.ds.lr_scheduler = scheduler
        return applied

    def destroy(self) -> None:
        """Release DeepSpeed's buffers; the engine cannot be used afterwards."""
        self.ds.destroy()

    def scalars(self) -> dict[str, Any]:
        """Return the engine's counters as plain values; see `load_scalars`."""
        return {"optimizer_step": self.full_state.optimizer_step()} | counters.of(self.ds)

    def load_scalars(self, scalars: dict[str, Any], *, step: int, skipped_steps: int) -> None:
        """Continue from `scalars`; this configuration's rates and limits are kept."""
        counters.set_to(scalars, self.ds, step=step, skipped_steps=skipped_steps)

    @property
    def _base(self) -> torch.optim.Optimizer:
        base: torch.optim.Optimizer = self.ds.basic_optimizer
        return base
