"""The DeepSpeed keys that this trainer accepts, block by block.

DeepSpeed silently ignores unknown keys, and drops ``"auto"`` in most places. So every key of
DeepSpeed 0.19 is either a field here or has a reason in `checks.REFUSED`; a test compares
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


#: Rules that are this trainer's own, which update whole matrices.
OWN_RULES = ("Lamb", "Muon")


class Block(BaseModel):
    """A block of the file: these keys only, and no guessing at types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _key(meaning: str) -> Any:
    """Make a key that may be left out."""
    return Field(default=None, description=meaning)


class OptimizerParams(Block):
    """``optimizer.params``; `fused` null takes Adam's fused kernel where there is one."""

    lr: Number = _key("peak learning rate")
    betas: Annotated[list[float], Field(min_length=2, max_length=2)] | None = _key(
        "decay rates of the moments"
    )
    eps: Number = _key("offset of the update's denominator")
    weight_decay: Number = _key("weight decay coefficient")
    fused: Flag = _key("Adam in few kernels on a GPU; without it, where that can be")


class Optimizer(Block):
    """The rule is the experiment's, ``optim.type``; what computes it is the file's."""

    type: Literal["Adam", "AdamW", "Lamb", "Muon"] | None = _key(
        "the rule; weight decay joins Adam's gradient, but the others' update"
    )
    params: OptimizerParams = OptimizerParams()


class CosineParams(Block):
    """Ours, `trainer.engine.optimizers.schedules.cosine`."""

    warmup_steps: Count = _key("updates of linear warm-up")
    min_lr: Number = _key("learning rate at the end")
    max_steps: Positive = _key("updates after which the cosine ends")


class _Warmup(Block):
    warmup_num_steps: Count = _key("updates of warm-up")
    warmup_type: Literal["log", "linear"] | None = _key(
        "shape of warm-up; DeepSpeed's default is log"
    )


class WarmupParams(_Warmup):
    """DeepSpeed's WarmupLR."""

    warmup_min_lr: Number = _key("learning rate of the first update")
    warmup_max_lr: Number = _key("learning rate after warm-up")


class WarmupDecayParams(WarmupParams):
    """DeepSpeed's WarmupDecayLR."""

    total_num_steps: Positive = _key("updates after which the learning rate is 0")


class WarmupCosineParams(_Warmup):
    """DeepSpeed's WarmupCosineLR; the ratios are of the peak learning rate."""

    total_num_steps: Positive = _key("updates after which the cosine ends")
    warmup_min_ratio: Number = _key("share of the peak learning rate that warm-up begins with")
    cos_min_ratio: Number = _key("share of the peak learning rate that the cosine ends with")


class OneCycleParams(Block):
    """DeepSpeed's OneCycle."""

    cycle_min_lr: Number = _key("learning rate at both ends of the cycle")
    cycle_max_lr: Number = _key("learning rate in the middle of the cycle")
    decay_lr_rate: Number = _key("decay of the learning rate after the cycle")
    cycle_first_step_size: Positive = _key("updates of the rising half")
    cycle_second_step_size: Positive = _key(
        "updates of the falling half; without it as many as of the first"
    )
    cycle_first_stair_count: Count = _key("stairs of the rising half; 0 is a straight line")
    cycle_second_stair_count: Count = _key("stairs of the falling half")
    decay_step_size: Count = _key("updates of one step of the decay; 0 is no decay")
    cycle_momentum: Flag = _key("move the first of betas against the learning rate")
    cycle_min_mom: Number = _key("least first beta")
    cycle_max_mom: Number = _key("greatest first beta")
    decay_mom_rate: Number = _key("decay of the first beta after the cycle")


class RangeTestParams(Block):
    """DeepSpeed's LRRangeTest."""

    lr_range_test_min_lr: Number = _key("learning rate of the first update")
    lr_range_test_step_size: Positive = _key("updates of one step of the growth")
    lr_range_test_step_rate: Number = _key("growth of the learning rate per step")
    lr_range_test_staircase: Flag = _key("grow in stairs, not evenly")


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
    """A choice of schedule; `SCHEDULE_PARAMS` has the params that each takes."""

    type: ScheduleType = Field(
        "cosine",
        description="shape of the learning rate; cosine is fairseq's, the others are DeepSpeed's",
    )
    params: dict[str, Any] = {}


class Fp16(Block):
    """16-bit weights under a loss scale; `loss_scale` 0 is dynamic.

    If not enabled, the block only sets the loss scale of `TorchAutocast` in float16, if that is.
    """

    enabled: Flag = _key("train 16-bit weights under a loss scale, at stage 1 or higher")
    loss_scale: Number = _key("fixed loss scale; 0 is dynamic")
    initial_scale_power: Annotated[_Whole, Field(ge=0, le=MAX_SCALE_POWER)] | None = _key(
        "2 to this power is the first dynamic loss scale"
    )
    loss_scale_window: Annotated[_Whole, Field(ge=1, le=2**31 - 1)] | None = _key(
        "steps without overflow after which the loss scale doubles"
    )
    hysteresis: Positive = _key("overflows after which the loss scale is halved")
    consecutive_hysteresis: Flag = _key("count only overflows in a row for hysteresis")
    min_loss_scale: Annotated[_Whole, Field(ge=1, le=2**MAX_SCALE_POWER)] | None = _key(
        "least dynamic loss scale"
    )


class Bf16(Block):
    """Bfloat16 weights."""

    enabled: Flag = _key("train bfloat16 weights, at stage 1 or higher")


class TorchAutocast(Block):
    """Bfloat16 or float16 arithmetic over fp32 weights."""

    enabled: Flag = _key("compute in 16 bits over fp32 weights")
    dtype: Literal[Bfloat16, Float16] | None = _key("the 16-bit type")
    lower_precision_safe_modules: Names = _key(
        "classes of modules whose gradients travel in that type"
    )


class Offload(Block):
    """Device on which ZeRO keeps the optimizer's state, or the parameters."""

    device: Literal["none", "cpu"] | None = _key("where it is kept; none is the GPU")
    pin_memory: Flag = _key("keep it in page-locked memory, which copies faster")


class Zero(Block):
    """Partition of tensors over ranks, and the portions in which they travel (in elements)."""

    stage: Annotated[_Whole, Field(ge=0, le=3)] | None = _key(
        "what ranks share: 0 nothing, 1 optimizer state, 2 and gradients, 3 and parameters"
    )
    contiguous_gradients: Flag = _key("copy gradients into one buffer as they are made")
    reduce_scatter: Flag = _key("send a gradient to the rank that updates with it, not to all")
    reduce_bucket_size: Positive = _key("elements that are reduced at a time")
    use_multi_rank_bucket_allreduce: Flag = _key(
        "send a bucket to all its ranks: half as much traffic again; false here"
    )
    allgather_partitions: Flag = _key("collect updated weights by one operation, not rank by rank")
    allgather_bucket_size: Positive = _key(
        "elements collected at a time; does nothing with today's PyTorch"
    )
    overlap_comm: Flag = _key("reduce gradients while the backward pass goes on")
    offload_param: Offload = Offload()
    offload_optimizer: Offload = Offload()
    sub_group_size: Positive = _key("elements that stage 3 updates at a time")
    parameter_alignment: Flag = _key(
        "begin each parameter at a multiple of 16 bytes, at stages 1 and 2"
    )
    ignore_unused_parameters: Flag = _key("a parameter without a gradient is no error, at stage 2")
    memory_efficient_linear: Flag = _key(
        "keep less of linear layers for the backward pass, at stage 3"
    )
    log_trace_cache_warnings: Flag = _key(
        "warn where modules run in another order than before, at stage 3"
    )
    enable_sanity_checks: Flag = _key("check DeepSpeed's own bookkeeping")
    stage3_prefetch_bucket_size: Count = _key("elements that are gathered before they are needed")
    stage3_param_persistence_threshold: Count = _key(
        "parameters of fewer elements stay whole on every rank"
    )
    stage3_model_persistence_threshold: Count = _key(
        "elements that stay whole on every rank, in all"
    )
    stage3_max_live_parameters: Count = _key("elements that are gathered at a time")
    stage3_max_reuse_distance: Count = _key(
        "keep a parameter that is used again within so many elements"
    )
    stage3_module_granularity_threshold: Count = _key(
        "elements per module below which modules are gathered as one"
    )
    stage3_use_all_reduce_for_fetch_params: Flag = _key("gather parameters by all-reduce")
    stage3_allgather_sequential: Flag = _key(
        "gather parameters one by one: fewer copies, less memory"
    )


class DataTypes(Block):
    """Type in which 16-bit gradients are accumulated."""

    grad_accum_dtype: Dtype = _key("type in which gradients of micro steps are added up")


class FlopsProfiler(Block):
    """DeepSpeed's count of operations, printed once."""

    enabled: Flag = _key("print a table of operations per module")
    recompute_fwd_factor: Number = _key("forward passes that are computed again per backward pass")
    profile_step: Positive = _key("the step that is counted")
    module_depth: Integer = _key("depth of modules in the table; -1 is all")
    top_modules: Positive = _key("modules that are listed at each depth")
    detailed: Flag = _key("print every module too")
    output_file: str | None = _key("file for the table; without it the log")


class CommsLogger(Block):
    """DeepSpeed's log of collectives."""

    enabled: Flag = _key("log collectives")
    prof_all: Flag = _key("log all of them")
    prof_ops: Names = _key("names of those that are logged")
    verbose: Flag = _key("log each one as it happens")
    debug: Flag = _key("name the caller of each")


class ThroughputTimer(Block):
    """DeepSpeed's own timer, which waits for the device twice per micro step."""

    enabled: Flag = _key("measure; false here, because it slows steps")
    synchronized: Flag = _key("wait for the device before each reading")


class Timers(Block):
    """DeepSpeed's timers."""

    throughput: ThroughputTimer = ThroughputTimer()


class DsFile(Block):
    """A whole file, its ``"auto"`` values taken out."""

    train_batch_size: Positive = _key("streams of a step, over all ranks and micro steps")
    train_micro_batch_size_per_gpu: Positive = _key("streams of a micro step on one rank")
    gradient_accumulation_steps: Positive = _key("micro steps per step")
    gradient_clipping: Number = _key("largest global norm of the gradient; 0 is no clipping")
    optimizer: Optimizer = Optimizer()
    scheduler: Scheduler = Scheduler()
    zero_optimization: Zero = Zero()
    fp16: Fp16 = Fp16()
    bf16: Bf16 = Bf16()
    torch_autocast: TorchAutocast = TorchAutocast()
    data_types: DataTypes = DataTypes()
    communication_data_type: Dtype = _key("type in which gradients travel")
    steps_per_print: Positive = _key("steps between lines of DeepSpeed's own")
    wall_clock_breakdown: Flag = _key("log the time of forward, backward and update")
    memory_breakdown: Flag = _key("log memory at each part of a step")
    dump_state: Flag = _key("log DeepSpeed's own configuration")
    log_level: Literal["debug", "info", "warning", "error", "critical"] | None = _key(
        "DeepSpeed's messages of this level and above are shown"
    )
    disable_python_gc: Flag = _key("switch Python's garbage collection off while training")
    flops_profiler: FlopsProfiler = FlopsProfiler()
    comms_logger: CommsLogger = CommsLogger()
    timers: Timers = Timers()
