"""Finding faults of a DeepSpeed file: refused and unknown keys, bad values, conflicts."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError

from trainer.config import strict
from trainer.config.deepspeed.keys import OWN_RULES, SCHEDULE_PARAMS, DsFile, Float16, ScheduleType

_NOTHING = "it would do nothing here"
_REMOVED = "DeepSpeed has removed it"
_NVME = "offload to NVMe is not supported: device cpu is"

#: DeepSpeed's keys that are refused: block, keys, reason.
_REFUSALS: tuple[tuple[str, str, str], ...] = (
    (
        "",
        "wandb tensorboard csv_monitor comet",
        "metrics are tracked once, by the experiment: --tracking.wandb, --tracking.tensorboard",
    ),
    ("", "checkpoint datastates_ckpt nebula", "this trainer writes its checkpoints itself"),
    (
        "",
        "pipeline tensor_parallel expert_parallel sequence_parallel_size "
        "seq_parallel_communication_data_type use_data_before_expert_parallelism",
        "the model runs whole on every rank: only its state is partitioned, by zero_optimization",
    ),
    (
        "",
        "amp quantize_training sparse_gradients eigenvalue sparse_attention elasticity "
        "graph_harvesting curriculum_learning progressive_layer_drop compression_training",
        _REMOVED,
    ),
    (
        "",
        "disable_allgather vocabulary_size dataloader_drop_last hybrid_engine autotuning "
        "weight_quantization zero_allow_untested_optimizer zero_force_ds_cpu_optimizer",
        _NOTHING,
    ),
    (
        "",
        "prescale_gradients gradient_predivide_factor gradient_allreduce_op "
        "managed_gradient_accumulation",
        "the loss is scaled for the mean over ranks and micro steps",
    ),
    ("", "activation_checkpointing", "it is the model's: --model.activation-checkpointing True"),
    ("", "compile", "DeepSpeed's compiler is not used"),
    ("", "data_efficiency", "the order of the text is the experiment's: --data.epoch-order"),
    ("", "aio", _NVME),
    ("", "bfloat16", "write bf16"),
    ("optimizer", "legacy_fusion", _NOTHING),
    (
        "optimizer.params",
        "torch_adam adam_w_mode adamw_mode amsgrad bias_correction",
        "optimizer.type alone says which Adam it is",
    ),
    ("fp16", "auto_cast", "the model takes no floating-point input"),
    ("fp16", "fp16_master_weights_and_grads", "the optimizer keeps fp32 weights"),
    (
        "bf16",
        "bf16_master_weights_and_grads bf16_optimizer_states",
        "the optimizer keeps fp32 weights and state",
    ),
    ("bf16", "immediate_grad_update", _NOTHING),
    ("bf16", "check_grad_overflow", "a step with a non-finite gradient is always skipped"),
    (
        "data_types",
        "param_dtype buffer_dtype keep_in_fp32_modules",
        "precision is said by fp16, bf16 and torch_autocast alone",
    ),
    (
        "zero_optimization",
        "legacy_stage1 elastic_checkpoint mics_shard_size "
        "mics_hierarchical_params_gather zeropp_loco_param",
        _REMOVED,
    ),
    (
        "zero_optimization",
        "cpu_offload cpu_offload_param cpu_offload_use_pin_memory",
        "deprecated: write offload_optimizer or offload_param, with device cpu",
    ),
    (
        "zero_optimization",
        "pipeline_loading_checkpoint leaf_module override_module_apply "
        "save_muon_momentum_buffer_in_memory stage3_gather_16bit_weights_on_model_save "
        "stage3_gather_fp16_weights_on_model_save load_from_fp32_weights",
        _NOTHING,
    ),
    (
        "zero_optimization",
        "round_robin_gradients",
        "DeepSpeed then mistakes parts of one parameter for another's, and checkpoints are wrong",
    ),
    ("zero_optimization", "compute_grad_norm", "the gradient's norm is always recorded"),
    (
        "zero_optimization",
        "zero_hpz_partition_size zero_quantized_weights "
        "zero_quantized_nontrainable_weights zero_quantized_gradients",
        "ZeRO++ is not supported",
    ),
    ("zero_optimization", "zenflow", "only a synchronous offload is supported"),
    (
        "zero_optimization.offload_optimizer",
        "ratio super_offload cpuadam_cores_perc",
        "only an offload of the whole optimizer is supported",
    ),
    (
        "zero_optimization.offload_optimizer",
        "nvme_path buffer_count pipeline_read pipeline_write fast_init",
        _NVME,
    ),
    ("zero_optimization.offload_param", "nvme_path buffer_count buffer_size max_in_cpu", _NVME),
)

REFUSED: dict[str, str] = {
    f"{block}.{key}".removeprefix("."): reason
    for block, keys, reason in _REFUSALS
    for key in keys.split()
}


def problems(values: Mapping[str, Any], *, owned: Collection[str]) -> list[str]:
    """Return all problems of a file's `values`, each with its path.

    `owned` are the paths that the experiment fills in; elsewhere DeepSpeed would drop ``"auto"``.
    """
    refused, auto = [], []
    for path, value in _walk(values):
        if path in REFUSED:
            refused.append(f"{path} is refused: {REFUSED[path]}")
        elif value == "auto" and path not in owned:
            auto.append(f"{path}: DeepSpeed ignores 'auto' here, give a value")
    rest = _known(values)
    kind = lookup(rest, "scheduler.type") or "cosine"
    params = lookup(rest, "scheduler.params")
    bad = _invalid(rest, DsFile)
    if kind in get_args(ScheduleType) and isinstance(params, dict):
        model = SCHEDULE_PARAMS[cast(ScheduleType, kind)]
        bad += [f"scheduler.params: {problem}" for problem in _invalid(params, model)]
    return refused + auto + bad + (_conflicts(rest) if not bad else [])


def _conflicts(values: Mapping[str, Any]) -> list[str]:
    """Return the conflicts between blocks that are valid by themselves."""
    stage = lookup(values, "zero_optimization.stage") or 0
    precisions = [p for p in ("fp16", "bf16", "torch_autocast") if lookup(values, f"{p}.enabled")]
    offload = "zero_optimization.offload_{}.device"
    conflicts = []
    if len(precisions) > 1:
        conflicts.append(f"{' and '.join(precisions)} are both enabled: keep one precision")
    if stage == 0 and {"fp16", "bf16"} & set(precisions):
        conflicts.append(
            f"zero_optimization.stage 0 trains wrongly with {precisions[0]} weights in DeepSpeed: "
            f"use stage 1, as zero1_{precisions[0]} does"
        )
    if "torch_autocast" in precisions and lookup(values, "torch_autocast.dtype") is None:
        conflicts.append("torch_autocast.dtype is missing: write bfloat16 or float16")
    if "torch_autocast" in precisions and lookup(values, "torch_autocast.dtype") in get_args(
        Float16
    ):
        conflicts += _scale_conflicts(values, stage)
    if stage == 0 and lookup(values, offload.format("optimizer")) == "cpu":
        conflicts.append("zero_optimization.offload_optimizer needs stage 1, 2 or 3")
    if stage < 3 and lookup(values, offload.format("param")) == "cpu":
        conflicts.append("zero_optimization.offload_param needs stage 3")
    if stage < 2 and lookup(values, "data_types.grad_accum_dtype"):
        conflicts.append("data_types.grad_accum_dtype needs stage 2 or 3")
    if lookup(values, "scheduler.params.warmup_num_steps") in (0, 1):
        conflicts.append(
            "DeepSpeed's schedules warm up for at least 2 updates: "
            "raise optim.warmup_steps, or use scheduler.type cosine"
        )
    return conflicts + _own_rule_conflicts(values)


def _scale_conflicts(values: Mapping[str, Any], stage: int) -> list[str]:
    """Return what does not go with `torch_autocast` in float16, whose loss scale is dynamic."""
    conflicts = []
    if stage > 0:
        conflicts.append(
            f"torch_autocast.dtype float16 needs zero_optimization.stage 0: use bfloat16, or fp16 "
            f"weights as zero{stage}_fp16 does"
        )
    for key, only in (("loss_scale", 0), ("hysteresis", 1), ("consecutive_hysteresis", False)):
        if lookup(values, f"fp16.{key}") not in (None, only):
            told = str(only).lower()
            conflicts.append(f"fp16.{key} can only be {told} with torch_autocast: leave it out")
    return conflicts


def _own_rule_conflicts(values: Mapping[str, Any]) -> list[str]:
    """Return the values of the file that only the two Adams can use."""
    if lookup(values, "optimizer.type") not in OWN_RULES:
        return []
    only_adam = "is for optim.type Adam and AdamW: leave it out, or take one of them"
    given = {
        "optimizer.params.fused": lookup(values, "optimizer.params.fused"),
        "zero_optimization.offload_optimizer": lookup(
            values, "zero_optimization.offload_optimizer.device"
        )
        == "cpu",
        "zero_optimization.sub_group_size": lookup(values, "zero_optimization.sub_group_size"),
    }
    return [f"{path} {only_adam}" for path, is_given in given.items() if is_given]


def lookup(values: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted `path`; None if there is none."""
    value: Any = values
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _walk(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield prefix + key, value
        if isinstance(value, Mapping) and prefix + key not in REFUSED:
            yield from _walk(value, f"{prefix}{key}.")


def _known(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `values` without refused keys and ``"auto"``, which are reported already."""
    return {
        key: _known(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in values.items()
        if prefix + key not in REFUSED and value != "auto"
    }


def _invalid(values: dict[str, Any], model: type[BaseModel]) -> list[str]:
    try:
        model.model_validate(values)
    except ValidationError as error:
        return strict.describe(error, model)
    return []
