"""Training in the process that calls, as a notebook does: `trainer.train`."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist

from trainer.calls.restoring import restoring
from trainer.calls.signals import saving_first
from trainer.config.command_line.arguments import TrainArguments, checked
from trainer.config.command_line.flags import changed
from trainer.config.recipe import ExperimentConfig, load_recipe
from trainer.distributed import barrier
from trainer.errors import Exit, InputError
from trainer.launchers import complete_environ
from trainer.track.record.metrics import read_metrics
from trainer.track.record.records import Record, RecordKind
from trainer.track.run_files.status import STATUS_FILE, RunState, read_status
from trainer.training.ending.stopping import StopRequests
from trainer.wording import LOGGED_CHARACTERS, printable

#: The numbers of ranks with which this process has trained. Ranks that met again at the same port
#: could find what is left of their first meeting.
_MET: list[int] = []


class Best(NamedTuple):
    """The best validation of a run."""

    loss: float
    """Mean nats per token of the valid split."""
    step: int
    """The step of the checkpoint `best`."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The end of a training.

    Attributes:
        run_dir: the run's directory.
        exit_code: the code with which the training command would have ended.
        state: state of the run: done, stopped, requeue or failed.
        reason: why the run is in this state, or what it missed; None if there is nothing to say.
        step: steps taken, with those of earlier calls.
        best: the best validation; None without one.
        train: the newest record of steps; None without one.
        valid: the newest record of a validation; None without one.
    """

    run_dir: Path
    exit_code: Exit
    state: RunState
    reason: str | None
    step: int
    best: Best | None
    train: Record | None
    valid: Record | None


def train(
    recipe: str | Path | ExperimentConfig,
    *,
    data: Path,
    run_dir: Path | None,
    overrides: Mapping[str, Any],
    deepspeed_config: str | None,
    resume: Literal["auto", "must", "never"],
    init_from: Path | None,
    resume_from: Path | None,
    allow_change: tuple[str, ...],
    beyond_memory: bool,
    device: Literal["auto", "cpu", "cuda"],
    environ: MutableMapping[str, str],
) -> TrainResult:
    """Train, and leave the process as it was; see `trainer.train`. Collective.

    `environ` is the environment of the process.
    """
    named = None if isinstance(recipe, ExperimentConfig) else str(recipe)
    experiment = recipe if isinstance(recipe, ExperimentConfig) else load_recipe(str(recipe))
    arguments = TrainArguments(
        recipe=named or "experiment",
        experiment=changed(experiment, overrides),
        data=data,
        run_dir=run_dir,
        deepspeed_config=deepspeed_config,
        resume=resume,
        init_from=init_from,
        resume_from=resume_from,
        allow_change=allow_change,
        profile=None,
        dry_run=False,
        beyond_memory=beyond_memory,
        local_rank=None,
        device=device,
        called=_spelt(named, data=data, run_dir=run_dir, overrides=overrides),
    )
    stops = StopRequests()
    with saving_first(stops), restoring(environ):
        return _trained(checked(arguments), environ, stops)


def _spelt(
    named: str | None, *, data: Path, run_dir: Path | None, overrides: Mapping[str, Any]
) -> str:
    """Return the call as it might be written again, in one line."""
    given = {"data": str(data), "run_dir": str(run_dir or ""), "overrides": dict(overrides)}
    words = [repr(named or "experiment"), *(f"{k}={v!r}" for k, v in given.items() if v)]
    return printable(f"trainer.train({', '.join(words)})", most=LOGGED_CHARACTERS)


def _trained(
    arguments: TrainArguments, environ: MutableMapping[str, str], stops: StopRequests
) -> TrainResult:
    """Train as one rank of a job, and leave the process group again. Collective."""
    environ.update(complete_environ(environ))
    if arguments.device == "cpu" or not torch.cuda.is_available():
        environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed reads it at import
    if dist.is_initialized():
        raise InputError(
            "this process has a process group of torch.distributed already: call "
            "torch.distributed.destroy_process_group() before"
        )
    from trainer.engine import deepspeed
    from trainer.training.opening.plan import make_plan
    from trainer.training.session import prepare_products, train_connected

    plan = make_plan(arguments, environ)
    prepare_products(plan.world.device, tf32=arguments.experiment.train.tf32)
    if plan.world.world_size > 1:
        if _MET:
            raise InputError(
                f"this process has trained with {_MET[0]} ranks before, which meet only once: "
                "start the script under its launcher again for each training"
            )
        _MET.append(plan.world.world_size)
    timeout_s = arguments.experiment.limits.distributed_timeout_s
    world = deepspeed.connect(plan.world, timeout_s=timeout_s)
    try:
        ended = train_connected(plan, world, environ, stops, owns_process=False)
        barrier(world)
    finally:
        if world.control is not None:
            world.control.end()
        deepspeed.disconnect()
    return _result(ended.run_dir, ended.code)


def _result(run_dir: Path, code: Exit) -> TrainResult:
    status = read_status(run_dir)
    if status is None:
        raise InputError(f"{run_dir} has lost its {STATUS_FILE}: look into its folder")
    found = status.result or {}
    loss, step = found.get("valid/best_loss"), found.get("valid/best_step")
    best = Best(loss, step) if isinstance(loss, float) and isinstance(step, int) else None
    return TrainResult(
        run_dir=run_dir,
        exit_code=code,
        state=status.state,
        reason=status.reason,
        step=status.step,
        best=best,
        train=_newest(run_dir, "train"),
        valid=_newest(run_dir, "valid"),
    )


def _newest(run_dir: Path, kind: RecordKind) -> Record | None:
    records = read_metrics(run_dir, kind=kind)
    return records[-1] if records else None
