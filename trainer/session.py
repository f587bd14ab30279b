"""From a plan to a trained run: claim the directory, build, resume, train."""

import contextlib
import logging
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from trainer import checkpoint, duties, engine, recovery, rundir
from trainer.arguments import TrainArguments
from trainer.background import Background
from trainer.console import close_logging, setup_logging
from trainer.data.read_ahead import AHEAD, SegmentReader
from trainer.distributed import (
    World,
    barrier,
    broadcast_object,
    complete_environ,
    gather_objects,
    on_each,
    on_main,
)
from trainer.errors import Exit, InputError, NonFiniteError
from trainer.expectations import missed
from trainer.faults import FaultWatch
from trainer.host_cpu import use_cpu_well
from trainer.loop import is_done, train
from trainer.metrics import next_attempt
from trainer.model.build import build_model
from trainer.plan import Plan, describe_plan, make_plan
from trainer.profiling import Profiler
from trainer.run import Run
from trainer.state import TrainState
from trainer.status import Status, read_status, write_status
from trainer.stopping import StopRequests
from trainer.tracking import open_tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run begins with."""

    origin: rundir.Origin | None
    """Where it goes on from."""
    weights: Path | None
    """The checkpoint whose weights a new run takes."""
    result: dict[str, Any] | None
    """Of a run that is done: nothing is to begin."""


def run_training(
    arguments: TrainArguments, environ: MutableMapping[str, str], stops: StopRequests
) -> Exit:
    """Train as `arguments` say; `environ` is the process's own. One call per process, on all ranks.

    Raises:
        InputError: on every rank, before anything was allocated or overwritten.
    """
    environ.update(complete_environ(environ))
    plan = make_plan(arguments, environ)
    if arguments.dry_run:
        if plan.world.is_main:
            print(describe_plan(plan))
        return Exit.DONE
    if plan.world.device.type == "cpu":
        use_cpu_well()
    limits = arguments.experiment.limits
    world = engine.connect(plan.world, timeout_s=limits.distributed_timeout_s)
    code = train_connected(plan, world, environ, stops)
    barrier(world)
    engine.disconnect()
    return code


def train_connected(
    plan: Plan, world: World, environ: MutableMapping[str, str], stops: StopRequests
) -> Exit:
    """Train in a process group that is there already, and leave it there. Collective.

    Raises:
        InputError: on every rank.
    """
    arguments, experiment = plan.arguments, plan.arguments.experiment
    wanted = arguments.run_dir or rundir.default_run_dir(arguments.recipe, now=time.time())
    run_dir = broadcast_object(wanted, world)
    stops.hold(run_dir, time_limit_s=experiment.limits.time_limit_s, watches_file=world.is_main)
    model = build_model(
        experiment.model, vocabulary_size=plan.corpus.vocabulary.size, seed=experiment.seed
    )
    start = on_main(lambda: _open_run_dir(plan, run_dir, model), world)
    log_file = run_dir / "logs" / f"rank-{world.rank:05d}.log"
    on_each(rundir.writing(lambda: setup_logging(world.rank, log_file=log_file)), world)
    if start.result is not None:
        result = start.result
        log.info("%s is done: %s", run_dir, result)
        lacks = on_main(lambda: missed(experiment.expect, result), world)
        close_logging()
        return Exit.EXPECTATION if lacks else Exit.DONE
    hosts = gather_objects(socket.gethostname(), world)
    attempt = on_main(lambda: _announce(plan, run_dir, start, hosts), world)
    try:
        run, state = _build(plan, world, run_dir, start, attempt, model, environ, stops)
    except BaseException as error:
        if world.is_main:
            _give_up(run_dir, error)
        raise
    code = None
    try:
        code = _train_to_the_end(run, state)
    finally:
        run.reader.close()
        run.background.close()
        run.tracker.close(1 if code is None else int(code))
        close_logging()
    run.engine.destroy()
    return code


def _open_run_dir(plan: Plan, run_dir: Path, model: nn.Module) -> Start:
    """Check everything that the run begins with before the directory is made. Rank 0."""
    arguments, experiment = plan.arguments, plan.arguments.experiment
    rundir.check(run_dir, experiment, allowed=arguments.allow_change)
    origin = rundir.find_origin(
        run_dir, experiment, plan.corpus, resume=arguments.resume,
        resume_from=arguments.resume_from, allowed=arguments.allow_change,
    )  # fmt: skip
    weights = None
    if origin is None and arguments.init_from is not None:
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        weights = rundir.find_weights(arguments.init_from, plan.corpus, shapes=shapes)
    status = read_status(run_dir)
    result = status.result if status is not None and status.state == "done" else None
    if origin is not None and result is not None:
        saved = TrainState()
        saved.load_json(origin.saved["train"])
        result = result if is_done(experiment, saved) else None
    rundir.make(run_dir)
    return Start(origin=origin, weights=weights, result=result)


def _announce(plan: Plan, run_dir: Path, start: Start, hosts: list[str]) -> int:
    """Write what the run is and that it starts; returns the number of this attempt. Rank 0.

    From here on `status.json` speaks of this attempt, whatever the last one has come to.
    """
    experiment = plan.arguments.experiment
    saved = TrainState()
    if start.origin is not None:
        saved.load_json(start.origin.saved["train"])
    attempt = next_attempt(run_dir)
    status = Status(
        state="starting", step=saved.step, update=saved.update,
        max_steps=experiment.train.max_steps, attempt=attempt,
    )  # fmt: skip

    def write() -> None:
        rundir.describe(run_dir, experiment, plan.resolved.values, plan.corpus, hosts)
        write_status(run_dir, status)

    rundir.writing(write)()
    return attempt


def _give_up(run_dir: Path, error: BaseException) -> None:
    """Write into the status that the run could not be built. Rank 0."""
    status = read_status(run_dir)
    if status is None:
        return
    code = Exit.BAD_INPUT if isinstance(error, InputError) else None
    failed = {"state": "failed", "reason": f"{type(error).__name__}: {error}", "exit_code": code}
    with contextlib.suppress(OSError):  # the error itself is what counts
        write_status(run_dir, status.model_copy(update=failed | {"heartbeat": time.time()}))


def _build(
    plan: Plan, world: World, run_dir: Path, start: Start, attempt: int, model: nn.Module,
    environ: MutableMapping[str, str], stops: StopRequests,
) -> tuple[Run, TrainState]:  # fmt: skip
    experiment, origin = plan.arguments.experiment, start.origin
    n_parameters = sum(p.numel() for p in model.parameters())
    built = engine.build(
        model, optim=experiment.optim, max_steps=experiment.train.max_steps,
        resolved=plan.resolved, world=world,
    )  # fmt: skip
    identity = {
        "experiment": experiment.model_dump(mode="json"), "ds_config": plan.resolved.values,
        "corpus": plan.corpus.hash, "splits": plan.corpus.split_hashes,
        "vocabulary": plan.corpus.vocabulary.hash,
        "precision": plan.resolved.precision, "world_size": world.world_size,
    }  # fmt: skip
    state = TrainState(attempt=attempt)
    state.window_loss_sum = state.window_loss_sum.to(world.device)
    if start.weights is not None:
        checkpoint.load_engine(start.weights, built, optimizer_step=0)
        state.parent = str(start.weights)
    saved_train: dict[str, Any] = {} if origin is None else origin.saved["train"]
    opened = partial(
        open_tracker, experiment.tracking, run_dir=run_dir, rank=world.rank, attempt=attempt,
        max_steps=experiment.train.max_steps,
        wandb_id=saved_train.get("wandb_id") if origin is not None and origin.is_own else None,
        run_config=identity | rundir.told(run_dir, n_parameters), environ=environ,
        step=saved_train.get("step", 0),
        update=saved_train.get("step", 0) - saved_train.get("skipped_steps", 0),
    )  # fmt: skip
    tracker = on_each(rundir.writing(opened), world)
    run = Run(
        experiment=experiment, run_dir=run_dir, corpus=plan.corpus, streams=plan.streams,
        reader=SegmentReader(plan.streams, world.device, n_ahead=AHEAD[world.device.type]),
        engine=built, tracker=tracker, stops=stops, watch=FaultWatch(plan.streams, world),
        profiler=Profiler(plan.arguments.profile, run_dir=run_dir, world=world),
        background=Background(world), world=world, identity=identity,
    )  # fmt: skip
    log.info(
        "%s: %s parameters, %s train tokens, %s, ZeRO-%s, %s ranks", run_dir, f"{n_parameters:,}",
        f"{plan.corpus.splits['train'].n_tokens:,}", plan.resolved.precision,
        plan.resolved.zero_stage, world.world_size,
    )  # fmt: skip
    if origin is None:
        duties.event(run, state, "start", parameters=n_parameters, parent=state.parent)
    else:
        recovery.restore(origin.path, origin.saved, run=run, state=state)
        state.attempt = attempt
        if not origin.is_own:
            state.parent, state.saved_step = str(origin.path), -1
        duties.event(
            run, state, "resume", path=origin.path.name, skipped=origin.skipped,
            changes=[str(change) for change in origin.changes], parent=state.parent,
        )  # fmt: skip
    state.wandb_id = tracker.wandb_id
    duties.set_status(run, state, "starting")
    return run, state


def _train_to_the_end(run: Run, state: TrainState) -> Exit:
    try:
        return train(run, state)
    except NonFiniteError as error:
        log.error("%s", error)
        duties.event(run, state, "stop", reason=str(error))
        duties.set_status(run, state, "failed", reason=str(error), code=Exit.NONFINITE)
        return Exit.NONFINITE
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        duties.set_status(run, state, "failed", reason=reason)
        raise
