"""The DeepSpeed keys that this trainer accepts, block by block.

DeepSpeed silently ignores unknown keys, and drops ``"auto"`` in most places. So every key of
DeepSpeed 0.19 is either a field here or has a reason in `deepspeed_checks.REFUSED`; a test compares
them with DeepSpeed's own classes. There are no defaults here: null, like a missing key, leaves the
value to DeepSpeed, or to the experiment that owns it.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Whole = Annotated[int, BeforeValidator(_whole)]  # files write 5e8, which JSON reads as a float

Flag = bool | None
Integer = _Whole | None
Count = Annotated[_Whole, Field(ge=0)] | None
Positive = Annotated[_Whole, Field(ge=1)] | None
Number = Annotated[float, Field(ge=0)] | None
Names = list[str] | None
Dtype = Literal["fp32", "fp16", "bf16"] | None
Bfloat16 = Literal["bfloat16", "bf16", "torch.bfloat16"]
Float16 = Literal["float16", "fp16", "torch.float16", "half"]


#: A loss scale is kept in fp32.
MAX_SCALE_POWER = 127


class Block(BaseModel):
    """A block of the file: these keys only, and no guessing at types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class OptimizerParams(Block):
    """``optimizer.params``; `fused` null takes Adam's fused kernel where there is one."""

    lr: Number = None
    betas: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    eps: Number = None
    weight_decay: Number = None
    fused: Flag = None


class Optimizer(Block):
    """The rule is the experiment's, ``optim.type``; what computes it is the file's."""

    type: Literal["Adam", "AdamW", "Lamb"] | None = None
    params: OptimizerParams = OptimizerParams()


class CosineParams(Block):
    """Ours, `trainer.engine.optimizers.schedules.cosine`."""

    warmup_steps: Count = None
    min_lr: Number = None
    max_steps: Positive = None


class _Warmup(Block):
    warmup_num_steps: Count = None
    warmup_type: Literal["log", "linear"] | None = None


class WarmupParams(_Warmup):
    """DeepSpeed's WarmupLR."""

    warmup_min_lr: Number = None
    warmup_max_lr: Number = None


class WarmupDecayParams(WarmupParams):
    """DeepSpeed's WarmupDecayLR."""

    total_num_steps: Positive = None


class WarmupCosineParams(_Warmup):
    """DeepSpeed's WarmupCosineLR; the ratios are of the peak learning rate."""

    total_num_steps: Positive = None
    warmup_min_ratio: Number = None
    cos_min_ratio: Number = None


class OneCycleParams(Block):
    """DeepSpeed's OneCycle."""

    cycle_min_lr: Number = None
    cycle_max_lr: Number = None
    decay_lr_rate: Number = None
    cycle_first_step_size: Positive = None
    cycle_second_step_size: Positive = None
    cycle_first_stair_count: Count = None
    cycle_second_stair_count: Count = None
    decay_step_size: Count = None
    cycle_momentum: Flag = None
    cycle_min_mom: Number = None
    cycle_max_mom: Number = None
    decay_mom_rate: Number = None


class RangeTestParams(Block):
    """DeepSpeed's LRRangeTest."""

    lr_range_test_min_lr: Number = None
    lr_range_test_step_size: Positive = None
    lr_range_test_step_rate: Number = None
    lr_range_test_staircase: Flag = None


ScheduleType = Literal[
    "cosine", "WarmupLR", "WarmupDecayLR", "WarmupCosineLR", "OneCycle", "LRRangeTest"
]
SCHEDULE_PARAMS: dict[ScheduleType, type[Block]] = {
    "cosine": CosineParams,
    "WarmupLR": WarmupParams,
    "WarmupDecayLR": WarmupDecayParams,
    "WarmupCosineLR": WarmupCosineParams,
    "OneCycle": OneCycleParams,
    "LRRangeTest": RangeTestParams,
}


class Scheduler(Block):
    """Which schedule; what params it takes is in `SCHEDULE_PARAMS`."""

    type: ScheduleType = "cosine"
    params: dict[str, Any] = {}


class Fp16(Block):
    """16-bit weights under a loss scale; `loss_scale` 0 is dynamic.

    If not enabled, the block only sets the loss scale of `TorchAutocast` in float16, if that is.
    """

    enabled: Flag = None
    loss_scale: Number = None
    initial_scale_power: Annotated[_Whole, Field(ge=0, le=MAX_SCALE_POWER)] | None = None
    loss_scale_window: Annotated[_Whole, Field(ge=1, le=2**31 - 1)] | None = None
    hysteresis: Positive = None
    consecutive_hysteresis: Flag = None
    min_loss_scale: Annotated[_Whole, Field(ge=1, le=2**MAX_SCALE_POWER)] | None = None


class Bf16(Block):
    """Bfloat16 weights."""

    enabled: Flag = None


class TorchAutocast(Block):
    """Bfloat16 or float16 arithmetic over fp32 weights."""

    enabled: Flag = None
    dtype: Literal[Bfloat16, Float16] | None = None
    lower_precision_safe_modules: Names = None


class Offload(Block):
    """Device on which ZeRO keeps the optimizer's state, or the parameters."""

    device: Literal["none", "cpu"] | None = None
    pin_memory: Flag = None


class Zero(Block):
    """Partition of tensors over ranks, and the portions in which they travel (in elements)."""

    stage: Annotated[_Whole, Field(ge=0, le=3)] | None = None
    contiguous_gradients: Flag = None
    reduce_scatter: Flag = None
    reduce_bucket_size: Positive = None
    use_multi_rank_bucket_allreduce: Flag = None
    allgather_partitions: Flag = None
    allgather_bucket_size: Positive = None
    overlap_comm: Flag = None
    offload_param: Offload = Offload()
    offload_optimizer: Offload = Offload()
    sub_group_size: Positive = None
    parameter_alignment: Flag = None
    ignore_unused_parameters: Flag = None
    memory_efficient_linear: Flag = None
    log_trace_cache_warnings: Flag = None
    enable_sanity_checks: Flag = None
    stage3_prefetch_bucket_size: Count = None
    stage3_param_persistence_threshold: Count = None
    stage3_model_persistence_threshold: Count = None
    stage3_max_live_parameters: Count = None
    stage3_max_reuse_distance: Count = None
    stage3_module_granularity_threshold: Count = None
    stage3_use_all_reduce_for_fetch_params: Flag = None
    stage3_allgather_sequential: Flag = None


class DataTypes(Block):
    """Type in which 16-bit gradients are accumulated."""

    grad_accum_dtype: Dtype = None


class FlopsProfiler(Block):
    """DeepSpeed's count of operations, printed once."""

    enabled: Flag = None
    recompute_fwd_factor: Number = None
    profile_step: Positive = None
    module_depth: Integer = None
    top_modules: Positive = None
    detailed: Flag = None
    output_file: str | None = None


class CommsLogger(Block):
    """DeepSpeed's log of collectives."""

    enabled: Flag = None
    prof_all: Flag = None
    prof_ops: Names = None
    verbose: Flag = None
    debug: Flag = None


class ThroughputTimer(Block):
    """DeepSpeed's own timer, which waits for the device twice per micro step."""

    enabled: Flag = None
    synchronized: Flag = None


class Timers(Block):
    """DeepSpeed's timers."""

    throughput: ThroughputTimer = ThroughputTimer()


class DsFile(Block):
    """A whole file, its ``"auto"`` values taken out."""

    train_batch_size: Positive = None
    train_micro_batch_size_per_gpu: Positive = None
    gradient_accumulation_steps: Positive = None
    gradient_clipping: Number = None
    optimizer: Optimizer = Optimizer()
    scheduler: Scheduler = Scheduler()
    zero_optimization: Zero = Zero()
    fp16: Fp16 = Fp16()
    bf16: Bf16 = Bf16()
    torch_autocast: TorchAutocast = TorchAutocast()
    data_types: DataTypes = DataTypes()
    communication_data_type: Dtype = None
    steps_per_print: Positive = None
    wall_clock_breakdown: Flag = None
    memory_breakdown: Flag = None
    dump_state: Flag = None
    log_level: Literal["debug", "info", "warning", "error", "critical"] | None = None
    disable_python_gc: Flag = None
    flops_profiler: FlopsProfiler = FlopsProfiler()
    comms_logger: CommsLogger = CommsLogger()
    timers: Timers = Timers()
