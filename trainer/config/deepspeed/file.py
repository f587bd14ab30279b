"""The DeepSpeed JSON, which says how to train: checked, and completed by the experiment.

The file says ``"auto"``, or nothing, for values that the experiment owns. If both give a value, the
values must agree. The file owns precision, ZeRO, offload and the optimizer's implementation.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args

import hjson

from trainer.config import strict
from trainer.config.deepspeed.checks import lookup, problems
from trainer.config.deepspeed.keys import (
    OWN_RULES,
    SCHEDULE_PARAMS,
    DsFile,
    Float16,
    Fp16,
    ScheduleType,
)
from trainer.config.divisors import divisors_near
from trainer.config.precision import Precision
from trainer.config.recipe import ExperimentConfig
from trainer.errors import InputError
from trainer.outside import refuse_odd_values
from trainer.wording import counted

#: The most bytes of a file; its parser takes a second for so many.
_MAX_BYTES = 256 << 10

_BATCH = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")

_OWNERS = {
    "train_batch_size": "train.train_batch_size",
    "gradient_clipping": "optim.gradient_clipping",
    "optimizer.type": "optim.type",
    "optimizer.params.lr": "optim.lr",
    "optimizer.params.betas": "optim.betas",
    "optimizer.params.eps": "optim.eps",
    "optimizer.params.weight_decay": "optim.weight_decay",
}
_SCHEDULE_OWNERS: dict[str, dict[str, str]] = {
    "cosine": {
        "warmup_steps": "optim.warmup_steps",
        "min_lr": "optim.min_lr",
        "max_steps": "train.max_steps",
    },
    "WarmupLR": {
        "warmup_min_lr": "optim.min_lr",
        "warmup_max_lr": "optim.lr",
        "warmup_num_steps": "optim.warmup_steps",
    },
    "WarmupDecayLR": {
        "warmup_min_lr": "optim.min_lr",
        "warmup_max_lr": "optim.lr",
        "warmup_num_steps": "optim.warmup_steps",
        "total_num_steps": "train.max_steps",
    },
    "WarmupCosineLR": {
        "warmup_min_ratio": "optim.min_lr/optim.lr",
        "cos_min_ratio": "optim.min_lr/optim.lr",
        "warmup_num_steps": "optim.warmup_steps",
        "total_num_steps": "train.max_steps",
    },
    "OneCycle": {"cycle_min_lr": "optim.min_lr", "cycle_max_lr": "optim.lr"},
}

#: A key of ZeRO-1 and 2: send gradients to all ranks, not only to the one that updates with them.
#: DeepSpeed's default is true, half as much traffic again as plain data parallel; ours is false.
_ALL_REDUCE = "use_multi_rank_bucket_allreduce"


@dataclass(frozen=True)
class OptimizerChoice:
    """The implementation of Adam: `fused` (None: if possible); with `offload` DeepSpeedCPUAdam."""

    fused: bool | None
    offload: bool


@dataclass(frozen=True)
class ScheduleChoice:
    """The schedule: ``cosine`` is ours, built from `params`; DeepSpeed builds any other."""

    type: ScheduleType
    params: dict[str, Any]


@dataclass(frozen=True)
class ResolvedDs:
    """A completed file: `values` for the record; `for_deepspeed` without parts that we build."""

    values: dict[str, Any]
    for_deepspeed: dict[str, Any]
    optimizer: OptimizerChoice
    schedule: ScheduleChoice
    precision: Precision
    loss_scale: Fp16
    zero_stage: int
    train_micro_batch_size_per_gpu: int
    gradient_accumulation_steps: int


def _packaged() -> Traversable:
    # Found by its place: another folder called ds_configs may come first on the path.
    return Path(__file__).parents[3] / "ds_configs"


def packaged_names() -> list[str]:
    """Return the names of the packaged DeepSpeed files, sorted."""
    return strict.packaged_names(_packaged())


def default_names(*, accelerator: str, bf16: bool) -> list[str]:
    """Return the names of the packaged files for a device with or without native bfloat16.

    The first is taken whose run fits the device's memory, or the last. They do not depend on the
    number of ranks.
    """
    if accelerator == "cuda":
        kind = "bf16" if bf16 else "fp16"
        return [f"zero0_{kind}_autocast", f"zero1_{kind}"]
    return ["zero0_bf16_autocast" if bf16 else "zero0_fp32"]


def load_ds_config(name_or_path: str) -> dict[str, Any]:
    """Read a packaged DeepSpeed file by name, or any file by path; comments are allowed.

    Raises:
        InputError: the file does not exist, or is not one JSON object with each key once.
    """
    where = f"DeepSpeed file {name_or_path}"
    text = strict.read_named(name_or_path, _packaged(), kind="DeepSpeed file")
    if len(text) > _MAX_BYTES:
        raise InputError(f"{where}: longer than {_MAX_BYTES:,} bytes, which no such file is")
    try:
        values = hjson.loads(text.decode(), object_pairs_hook=strict.unique_keys)
        refuse_odd_values(values)
    except RecursionError:
        raise InputError(f"{where}: nested too deeply to be read") from None
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:  # errors of its parser
        raise InputError(f"{where}: not JSON: {error}") from None
    if not isinstance(values, dict) or not values:
        raise InputError(f"{where}: not a JSON object with keys")
    return values


def owners(schedule: object) -> dict[str, str]:
    """Return for each key that the experiment owns the field, or the quotient of two fields.

    `schedule` is the type of the schedule; one that is not known has no such keys.
    """
    params = _SCHEDULE_OWNERS.get(str(schedule), {})
    return _OWNERS | {f"scheduler.params.{key}": owner for key, owner in params.items()}


def resolve(
    raw: Mapping[str, Any], experiment: ExperimentConfig, *, world_size: int, where: str
) -> ResolvedDs:
    """Complete the file `raw` for `world_size` ranks; `where` names the file in errors.

    Raises:
        InputError: lists every problem of the file, and every difference from the experiment.
    """
    micro, accumulation, complaints = _split_batch(raw, experiment, world_size)
    kind = lookup(raw, "scheduler.type") or "cosine"
    owned = {path: (owner, _value(experiment, owner)) for path, owner in owners(kind).items()}
    if not complaints:
        owned["train_micro_batch_size_per_gpu"] = ("train.train_micro_batch_size_per_gpu", micro)
        owned["gradient_accumulation_steps"] = (
            f"train_batch_size/(train_micro_batch_size_per_gpu·{counted(world_size, 'rank')})",
            accumulation,
        )
    filled = deepcopy(dict(raw))
    for path, (owner, value) in owned.items():
        given = lookup(raw, path)
        if given in (None, "auto"):
            _fill(filled, path, value)
        elif given != value and isinstance(given, str) == isinstance(value, str):
            complaints.append(f"{path} is {given}, but the experiment's {owner} is {value}")
    complaints += problems(filled, owned={*owned, *_BATCH})
    if complaints:
        raise InputError(f"{where}: {'; '.join(complaints)}")
    return _resolved(filled, micro, accumulation)


def _split_batch(
    raw: Mapping[str, Any], experiment: ExperimentConfig, world_size: int
) -> tuple[int, int, list[str]]:
    """Return streams per micro step and rank, micro steps per step, and problems with both."""
    total = experiment.train.train_batch_size
    given = {key: value for key in _BATCH if isinstance(value := raw.get(key), int) and value > 0}
    micro = experiment.train.train_micro_batch_size_per_gpu or given.get(_BATCH[0])
    share, rest = divmod(total, world_size)
    if rest:
        larger = total + world_size - rest
        sizes = f"{total - rest} or {larger}" if share else f"{larger}"
        complaint = (
            f"train.train_batch_size {total} does not split over {world_size} ranks: "
            f"use {divisors_near(total, world_size)} ranks, or train.train_batch_size {sizes}"
        )
        return 0, 0, [complaint]
    # Either size determines the other; without both, a rank's whole share is one micro step.
    key, size = (_BATCH[0], micro) if micro else (_BATCH[1], given.get(_BATCH[1], 1))
    if share % size:
        complaint = f"{key} {size} does not divide the {share} streams of a rank"
        return 0, 0, [f"{complaint}: use {divisors_near(share, size)}"]
    micro = micro or share // size
    return micro, share // micro, []


def _value(experiment: ExperimentConfig, owner: str) -> Any:
    numerator, *denominator = (attrgetter(field)(experiment) for field in owner.split("/"))
    value = numerator / denominator[0] if denominator else numerator
    return list(value) if isinstance(value, tuple) else value


def _fill(values: Any, path: str, value: Any) -> None:
    """Put `value` at a dotted `path`, unless a value on the way is no object."""
    *parents, leaf = path.split(".")
    for key in parents:
        values = values.setdefault(key, {}) if isinstance(values, dict) else None
    if isinstance(values, dict):
        values[leaf] = value


def _resolved(filled: dict[str, Any], micro: int, accumulation: int) -> ResolvedDs:
    """Return the choices of a file that is valid and has no ``"auto"`` left."""
    for path, value in (
        ("scheduler.type", "cosine"),
        ("zero_optimization.stage", 0),
        ("timers.throughput.enabled", False),
    ):
        if lookup(filled, path) is None:
            _fill(filled, path, value)
    zero = filled["zero_optimization"]
    if zero["stage"] in (1, 2) and zero.get(_ALL_REDUCE) is None:
        zero[_ALL_REDUCE] = False
    file = DsFile.model_validate(filled)
    values = file.model_dump(exclude_unset=True, exclude_none=True)
    params = SCHEDULE_PARAMS[file.scheduler.type].model_validate(file.scheduler.params)
    values["scheduler"]["params"] = params.model_dump(exclude_unset=True, exclude_none=True)
    ours = {"optimizer", "scheduler"} if file.scheduler.type == "cosine" else {"optimizer"}
    theirs = {key: deepcopy(value) for key, value in values.items() if key not in ours}
    if file.optimizer.type in OWN_RULES:
        theirs["zero_allow_untested_optimizer"] = True  # they are tested with this trainer
        theirs["zero_optimization"] |= {"sub_group_size": 10**15}  # all matrices in one call
    in_fp16 = file.torch_autocast.dtype in get_args(Float16)
    precisions: dict[Precision, bool | None] = {
        "fp16": file.fp16.enabled,
        "bf16": file.bf16.enabled,
        "fp16_autocast": file.torch_autocast.enabled and in_fp16,
        "bf16_autocast": file.torch_autocast.enabled,
        "fp32": True,
    }
    return ResolvedDs(
        values=values,
        for_deepspeed=theirs,
        optimizer=OptimizerChoice(
            fused=file.optimizer.params.fused,
            offload=file.zero_optimization.offload_optimizer.device == "cpu",
        ),
        schedule=ScheduleChoice(file.scheduler.type, values["scheduler"]["params"]),
        precision=next(name for name, enabled in precisions.items() if enabled),
        loss_scale=file.fp16,
        zero_stage=file.zero_optimization.stage or 0,
        train_micro_batch_size_per_gpu=micro,
        gradient_accumulation_steps=accumulation,
    )


def show(experiment: ExperimentConfig, ds_config: str, *, world_size: int) -> str:
    """Return both configurations, as a run on `world_size` ranks uses them, as one JSON text.

    Raises:
        InputError: the DeepSpeed file cannot be read, or does not fit the experiment.
    """
    raw = load_ds_config(ds_config)
    resolved = resolve(raw, experiment, world_size=world_size, where=ds_config)
    both = {"experiment": experiment.model_dump(mode="json"), "deepspeed": resolved.values}
    return json.dumps(both, indent=2)


def schema() -> str:
    """Return the JSON Schemas of experiments and of DeepSpeed files, as one JSON text."""
    both = {
        "experiment": ExperimentConfig.model_json_schema(),
        "deepspeed": DsFile.model_json_schema(),
    }
    return json.dumps(both, indent=2)
