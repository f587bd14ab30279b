"""DeepSpeed behind one seam: the only file that imports it. All functions are called by all ranks.

They join the ranks, and wrap a model in DeepSpeed's engine; `trainer.engine.engine` trains with it.
"""

import logging
import warnings
from dataclasses import replace
from datetime import timedelta

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.ops.adam import DeepSpeedCPUAdam
from deepspeed.runtime import torch_autocast
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import nn

from trainer.config.deepspeed.file import ResolvedDs
from trainer.config.experiment import OptimConfig
from trainer.config.precision import is_autocast
from trainer.distributed import Control, World, refuse_shared_gpus
from trainer.engine.engine import Engine
from trainer.engine.optimizers import lamb, muon
from trainer.engine.optimizers.choice import optimizer_of
from trainer.engine.optimizers.schedules import cosine_of
from trainer.engine.passes.unrolled import Unrolled
from trainer.engine.zero import cut, decide_by_norm, layers_are_called_once, refuse_frozen
from trainer.errors import InputError
from trainer.meeting import limit_of, meet
from trainer.model.initialise import Fills
from trainer.model.layer import Layer
from trainer.model.matrices import matrices
from trainer.model.precision import compute_dtype_of
from trainer.model.triton.storage import copies_of, on_kernels, store_aligned


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
    control = Control(dist.new_group(backend="gloo", timeout=limit_of(timeout_s)))
    world = replace(world, control=control)
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
    unrolls: bool = False,
) -> "Engine":
    """Wrap `model` for training, and move it to `world.device` in the configured precision.

    At stage 3 the model may be on `meta`; `fills` then fills the parts that this rank keeps. With
    `unrolls` a pass may read several segments, see `Unrolled`.

    Raises:
        InputError: ZeRO could not save all of the model's weights, or the model cannot be unrolled.
    """
    config = dict(resolved.for_deepspeed)
    if resolved.zero_stage == 0:
        config["gradient_clipping"] = 0.0  # Engine.step clips, after looking for a NaN
    names = {id(p): name for name, p in model.named_parameters()}
    stage, dtype = resolved.zero_stage, compute_dtype_of(resolved.precision)
    on_a_gpu = on_kernels(model, world.device, dtype)
    if on_a_gpu and stage < 3:
        store_aligned(model)
    wholes, sizes = lamb.matrices(model), matrices(model)
    if stage > 0:
        refuse_frozen(model, stage=stage)
    if fills is not None:
        cut(fills, zero_init=deepspeed.zero.Init, resolved=resolved, world=world)
    optimizer = optimizer_of(list(model.parameters()), optim, resolved, offloaded=DeepSpeedCPUAdam)
    if stage == 3 and not unrolls and layers_are_called_once(model):
        # A back end reads a layer's weights itself, so they are gathered together.
        deepspeed.utils.set_z3_leaf_modules(model, [Layer])
    is_ours = resolved.schedule.type == "cosine"
    schedule = cosine_of(optim, max_steps=max_steps) if is_ours else None
    whole = Unrolled(model) if unrolls else model
    given = {"model": whole, "optimizer": optimizer, "lr_scheduler": schedule}
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
    sum_over_ranks = dist.all_reduce if world.world_size > 1 else None
    if isinstance(optimizer, lamb.Lamb):
        optimizer.cut(
            engine.full_state.fragments(),
            matrices=wholes,
            sum_over_ranks=sum_over_ranks if stage > 0 else None,
        )
    elif isinstance(optimizer, muon.Muon):
        optimizer.cut(
            engine.full_state.fragments(),
            matrices=sizes,
            sum_over_ranks=sum_over_ranks,
            share=(world.rank, world.world_size) if stage == 0 else None,
        )
    return engine
