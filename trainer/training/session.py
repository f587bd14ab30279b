"""From a plan to a trained run: claim the directory, build, resume, train."""

import logging
import socket
import time
from collections.abc import MutableMapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trainer.budget.shortage import explained
from trainer.checkpoint.hashing import led_with_hashes
from trainer.checkpoint.state import TrainState
from trainer.config.command_line.arguments import TrainArguments
from trainer.data.read_ahead import AHEAD, SegmentReader
from trainer.distributed import (
    World,
    barrier,
    gather_objects,
    on_each,
    on_main,
)
from trainer.engine import deepspeed
from trainer.engine.engine import Engine
from trainer.engine.passes.captured import passes_of
from trainer.errors import CorpusError, Exit, InputError, NonFiniteError, ShortageError
from trainer.host_cpu import use_cpu_well
from trainer.launchers import complete_environ
from trainer.meeting import limit_groups
from trainer.track.console.logs import close_logging, setup_logging
from trainer.track.failures import Failures
from trainer.track.opening import open_tracker
from trainer.training import duties
from trainer.training.background import Background
from trainer.training.bad_losses import recovery
from trainer.training.bad_losses.faults import FaultWatch
from trainer.training.bad_losses.stream_losses import StreamLosses
from trainer.training.building import built, engine_of, take_weights
from trainer.training.due import pauses
from trainer.training.ending import leaving
from trainer.training.ending.stopping import StopRequests
from trainer.training.loop import train
from trainer.training.opening import agree, identity, rundir
from trainer.training.opening.claimant import claimed
from trainer.training.opening.dry_run import describe_start, refuse_without_memory
from trainer.training.opening.plan import Plan, describe_plan, make_plan
from trainer.training.opening.start import Start, announce, find_start, give_up
from trainer.training.peers.company import in_company
from trainer.training.profiling import Profiler
from trainer.training.run import Run
from trainer.wording import counted

log = logging.getLogger(__name__)

#: The exit codes of the errors that end a run in training.
_CODES: dict[type[Exception], Exit] = {
    CorpusError: Exit.CORPUS,
    NonFiniteError: Exit.NONFINITE,
    ShortageError: Exit.OUT_OF_MEMORY,
}


def run_training(
    arguments: TrainArguments, environ: MutableMapping[str, str], stops: StopRequests
) -> Exit:
    """Train as `arguments` say. All ranks call this, once per process.

    `environ` is the environment of the process.

    Raises:
        InputError: on every rank, before anything was allocated or overwritten.
    """
    environ.update(complete_environ(environ))
    log.info("opening the corpus in %s", arguments.data)
    try:
        plan = make_plan(arguments, environ)
    except InputError as error:
        agree.refuse_all(error, arguments, environ)
        raise
    if arguments.dry_run:
        if plan.world.is_main:
            print(describe_plan(plan, describe_start(plan)))
        return Exit.DONE
    prepare_products(plan.world.device, tf32=arguments.experiment.train.tf32)
    limits = arguments.experiment.limits
    log.info("connecting %s", counted(plan.world.world_size, "rank"))
    world = deepspeed.connect(plan.world, timeout_s=limits.distributed_timeout_s)
    agree.hear_refusals(world)
    ended = train_connected(plan, world, environ, stops)
    barrier(world)
    deepspeed.disconnect()
    return ended.code


class Ended(NamedTuple):
    """The end of a training."""

    run_dir: Path
    code: Exit


def prepare_products(device: torch.device, *, tf32: bool) -> None:
    """Set how this process multiplies on a device."""
    if device.type == "cpu":
        use_cpu_well()
    else:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32


def train_connected(
    plan: Plan,
    world: World,
    environ: MutableMapping[str, str],
    stops: StopRequests,
    *,
    owns_process: bool = True,
) -> Ended:
    """Train in a process group that exists already, and do not end it. Collective.

    Args:
        plan: what is trained.
        world: this process among its peers.
        environ: the environment of the process.
        stops: who asks to stop.
        owns_process: whether a rank that is alone ends the process too when nothing gets on. In a
            notebook it may stand in a debugger.

    Raises:
        InputError: on every rank.
    """
    if world.world_size > 1:
        agree.refuse_different(agree.facts_of_run(plan), world)
    named, recipe = plan.arguments.run_dir, plan.arguments.recipe
    candidates = [named] if named else rundir.default_run_dirs(recipe, now=time.time())
    limit_s = plan.arguments.experiment.limits.distributed_timeout_s
    leave = partial(leaving.leave, environ)
    is_watched = owns_process or world.world_size > 1
    with (
        claimed(
            candidates, must_be_new=named is None, world=world, on_lost=leaving.give_up
        ) as run_dir,
        in_company(world, run_dir, limit_s=limit_s, leave=leave) if is_watched else nullcontext(),
        explained(world, plan.situation),
    ):
        return Ended(run_dir, _train_claimed(plan, world, run_dir, environ, stops))


def _train_claimed(
    plan: Plan, world: World, run_dir: Path, environ: MutableMapping[str, str], stops: StopRequests
) -> Exit:
    """Train in a directory that this job has claimed; return the exit code. Collective."""
    experiment = plan.arguments.experiment
    stops.hold(run_dir, time_limit_s=experiment.limits.time_limit_s, watches_file=world.is_main)
    refuse_without_memory(plan, run_dir, world)
    model, fills = built(plan)
    start = led_with_hashes(partial(find_start, plan, run_dir, model), world)
    log_file = run_dir / "logs" / f"rank-{world.rank:05d}.log"
    on_each(rundir.writing(lambda: setup_logging(world.rank, log_file=log_file)), world)
    if start.done is not None:
        lacks = on_main(partial(identity.judge_again, plan, run_dir, start.done), world)
        close_logging()
        return Exit.EXPECTATION if lacks else Exit.DONE
    hosts = gather_objects(socket.gethostname(), world)
    attempt = on_main(lambda: announce(plan, run_dir, start, hosts), world)
    try:
        with explained(world, plan.situation):
            on_each(partial(duties.check_corpus, plan.corpus, plan.streams), world)
            n_parameters = sum(p.numel() for p in model.parameters())
            log.info("building the engine for %s", counted(n_parameters, "parameter"))
            engine = engine_of(plan, world, model, fills)
            limit_groups(experiment.limits.distributed_timeout_s)
            world.progress.note("building the engine")
            run = _open(plan, world, run_dir, start, attempt, engine, n_parameters, environ, stops)
            state = _begin(run, plan, start, attempt, n_parameters)
    except BaseException as error:
        if world.is_main:
            give_up(run_dir, error)
        raise
    code = None
    try:
        code = _train_to_the_end(run, state, plan)
    finally:
        run.reader.close()
        run.background.close()
        run.tracker.close(1 if code is None else int(code))
        close_logging()
    run.engine.destroy()
    return code


def _open(
    plan: Plan,
    world: World,
    run_dir: Path,
    start: Start,
    attempt: int,
    engine: Engine,
    n_parameters: int,
    environ: MutableMapping[str, str],
    stops: StopRequests,
) -> Run:
    """Build all fixed parts of a run; the engine gets a parent's weights, if any. Collective."""
    experiment, origin = plan.arguments.experiment, start.origin
    if start.weights is not None:
        take_weights(start.weights, engine)
    saved_train: dict[str, Any] = {} if origin is None else origin.saved["train"]
    opened = partial(
        open_tracker,
        experiment.tracking,
        run_dir=run_dir,
        rank=world.rank,
        attempt=attempt,
        max_steps=experiment.train.max_steps,
        wandb_id=saved_train.get("wandb_id") if origin is not None and origin.is_own else None,
        run_config=identity.tracked_of(plan, world) | rundir.run_facts(run_dir, n_parameters),
        environ=environ,
        pauses=pauses(experiment, validates="valid" in plan.corpus.splits),
        step=saved_train.get("step", 0),
        update=saved_train.get("step", 0) - saved_train.get("skipped_steps", 0),
    )
    return Run(
        experiment=experiment,
        run_dir=run_dir,
        corpus=plan.corpus,
        streams=plan.streams,
        tracker=on_each(rundir.writing(opened), world),
        reader=SegmentReader(plan.streams, world.device, n_ahead=AHEAD[world.device.type]),
        engine=engine,
        passes=passes_of(engine, experiment.train, forgets=plan.streams.forgets_always),
        stops=stops,
        watch=FaultWatch(plan.streams, world),
        losses=StreamLosses(plan.streams.slots * plan.streams.micro, world.device),
        profiler=Profiler(plan.arguments.profile, run_dir=run_dir, world=world),
        background=Background(world),
        failures=Failures(),
        world=world,
        identity=identity.identity_of(plan, world),
        peak_tokens_per_s=plan.peak_tokens_per_s,
        valid_of=plan.valid_of,
    )


def _begin(run: Run, plan: Plan, start: Start, attempt: int, n_parameters: int) -> TrainState:
    """Return the state that a run begins with, new or restored; log which. Collective."""
    state, origin = TrainState(attempt=attempt), start.origin
    state.window_loss_sum = state.window_loss_sum.to(run.world.device)
    if start.weights is not None:
        state.parent = str(start.weights)
    identity.introduce(plan, run.run_dir, n_parameters=n_parameters, world=run.world)
    begun = identity.data_of(plan) | {"parameters": n_parameters}
    if origin is None:
        duties.event(
            run,
            state,
            "start",
            parent=state.parent,
            data_step=state.data_step,
            **begun,
        )
    else:
        log.info("loading %s", origin.path)
        recovery.restore(origin.path, origin.saved, run=run, state=state, rollback=origin.rollback)
        state.attempt = attempt
        if not origin.is_own:
            state.parent, state.saved_step = str(origin.path), -1
        duties.event(
            run,
            state,
            "resume",
            path=origin.path.name,
            data_step=state.data_step,
            skipped=origin.skipped,
            changes=[
                change.to_json()
                for change in (*origin.changes, *identity.precision_change(origin.saved, plan))
            ],
            parent=state.parent,
            **begun,
        )
    if run.world.device.type == "cuda":
        log.info("the first steps compile the GPU's kernels and take longer")
    state.wandb_id = run.tracker.wandb_id
    duties.set_status(run, state, "starting")
    return state


def _train_to_the_end(run: Run, state: TrainState, plan: Plan) -> Exit:
    """Train until the run ends; where an error ends it, record the reason."""
    try:
        with explained(run.world, plan.situation):
            return train(run, state)
    except (CorpusError, NonFiniteError, ShortageError) as error:
        code = _CODES[type(error)]
        log.error("%s", error)
        duties.event(run, state, "stop", reason=str(error))
        duties.set_status(run, state, "failed", reason=str(error), code=code)
        if isinstance(error, NonFiniteError):
            return code
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        duties.set_status(run, state, "failed", reason=reason)
        raise
