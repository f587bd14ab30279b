"""Doing a step of a run again, from the checkpoint before it, without writing anything.

On the same device, with the same ranks and threads, all losses are those of the run to the last
bit: dropout and the position in the text are pure functions of the step.
"""

import logging
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer.checkpoint.folder import directory, newest_whole
from trainer.checkpoint.hashing import Fingerprints, led_with_hashes
from trainer.checkpoint.rollback import Rollback
from trainer.checkpoint.state import TrainState
from trainer.config.command_line.arguments import TrainArguments
from trainer.config.recipe import ExperimentConfig
from trainer.data.read_ahead import SegmentReader
from trainer.distributed import World, gather_objects
from trainer.engine import deepspeed
from trainer.engine.passes.captured import passes_of
from trainer.errors import InputError
from trainer.outside import shortened
from trainer.report.inspect.place import Attempt, Place
from trainer.report.inspect.reading import corpus_of_run, dealt_of, experiment_of
from trainer.report.inspect.replayed import Replayed
from trainer.track.failures import Failures
from trainer.track.tracker import Tracker
from trainer.training import duties
from trainer.training.background import Background
from trainer.training.bad_losses import recovery
from trainer.training.bad_losses.faults import FaultWatch
from trainer.training.bad_losses.stream_losses import StreamLosses
from trainer.training.building import built, engine_of
from trainer.training.ending.stopping import StopRequests
from trainer.training.loop import train_step
from trainer.training.opening.plan import Plan, make_plan
from trainer.training.profiling import Profiler
from trainer.training.run import Run, StepStats
from trainer.training.session import prepare_products
from trainer.wording import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The state of the run from which the step is reached."""

    path: Path | None
    """The checkpoint; None is the beginning."""
    saved: dict[str, Any]
    rollback: Rollback | None


def replay(
    run_dir: Path,
    place: Place,
    *,
    data: Path | None,
    device: Literal["auto", "cpu", "cuda"],
    trust: bool,
    environ: MutableMapping[str, str],
) -> Replayed:
    """Do the step at `place` again. All ranks of a launcher call this, once per process.

    Args:
        run_dir: the run's directory, in which nothing is written.
        place: the step.
        data: the corpus, if it has moved.
        device: where to compute.
        trust: whether to run the code that the run names as its model.
        environ: the environment of the process, completed.

    Raises:
        InputError: no checkpoint before the step is left, or what is there does not fit.
    """
    experiment, n_ranks = experiment_of(run_dir), int(environ["WORLD_SIZE"])
    dealt = dealt_of(run_dir, experiment.train.train_batch_size)
    if dealt is not None:
        _refuse_other_ranks(dealt.n_ranks, run_dir, place, n_ranks=n_ranks)
    plan = make_plan(_arguments(run_dir, data=data, device=device, trust=trust), environ)
    prepare_products(plan.world.device, tf32=plan.arguments.experiment.train.tf32)
    limits = plan.arguments.experiment.limits
    world = deepspeed.connect(plan.world, timeout_s=limits.distributed_timeout_s)
    try:
        origin = led_with_hashes(
            partial(origin_of, run_dir, place, n_ranks=world.world_size), world
        )
        model, fills = built(plan)
        run = _run(plan, world, run_dir, engine_of(plan, world, model, fills))
        state = TrainState()
        state.window_loss_sum = state.window_loss_sum.to(world.device)
        if origin.path is not None:
            recovery.restore(
                origin.path, origin.saved, run=run, state=state, rollback=origin.rollback
            )
        replayed = _replayed(run, state, place, origin)
        run.reader.close()
        run.engine.destroy()
        return replayed
    finally:
        if world.control is not None:
            world.control.end()
        deepspeed.disconnect()


def _replayed(run: Run, state: TrainState, place: Place, origin: Origin) -> Replayed:
    state.memories = state.memories or run.empty_memories(state.data_step)
    log.info("doing %s again", counted(place.step - state.step, "step"))
    while state.step < place.step:
        if state.step == place.step - 1:
            run.engine.note_norms()
        stats = train_step(run, state)
        duties.learn(run, state)
        loss = duties.window_loss(run, state, stats)
        if loss is not None:
            duties.clear_window(state)
    norm = run.engine.grad_norm
    return Replayed(
        begun_from="the beginning" if origin.path is None else origin.path.name,
        record_loss=loss,
        nats=_nats(run, stats),
        grad_norms=_by_layer(run.engine.noted_norms),
        grad_norm=None if norm is None else float(norm),
    )


def _arguments(
    run_dir: Path, *, data: Path | None, device: Literal["auto", "cpu", "cuda"], trust: bool
) -> TrainArguments:
    """Return the arguments of a training that goes on with a run but records nothing."""
    experiment = experiment_of(run_dir)
    factory = experiment.model.factory
    if factory is not None and not trust:
        raise InputError(
            f"{run_dir} names code as its model, model.factory {shortened(factory)}: it runs only "
            "with --trust-code, for those who trust the folder and what is imported by that name"
        )
    quiet = experiment.tracking.model_copy(update={"wandb": "disabled", "tensorboard": False})
    experiment = experiment.model_copy(update={"tracking": quiet})
    return TrainArguments(
        recipe="",
        experiment=experiment,
        data=corpus_of_run(run_dir, data).path,
        run_dir=run_dir,
        deepspeed_config=str(run_dir / "ds_config.json"),
        resume="must",
        init_from=None,
        resume_from=None,
        allow_change=(),
        profile=None,
        dry_run=False,
        beyond_memory=False,
        local_rank=None,
        device=device,
    )


def origin_of(run_dir: Path, place: Place, hashed: Fingerprints, *, n_ranks: int) -> Origin:
    """Return the newest state from which an attempt came to a step. Rank 0.

    Args:
        run_dir: the run's directory.
        place: the attempt and the step.
        hashed: returns size and hash of a checkpoint's files.
        n_ranks: the number of ranks that replay.

    Raises:
        InputError: none is left, or it was saved by another number of ranks.
    """
    attempt, before = place.attempt, place.step
    while True:
        newest = newest_whole(directory(run_dir), hashed, before_step=before)
        if newest.path is None:
            break
        train = newest.state["train"]
        rollback = _rollback(train, attempt)
        if train["attempt"] == attempt.number or (
            train["step"] == attempt.begins_at and train["attempt"] < attempt.number
        ):
            n_saved = int(newest.state.get("world_size", n_ranks))
            _refuse_other_ranks(n_saved, run_dir, place, n_ranks=n_ranks)
            return Origin(path=newest.path, saved=newest.state, rollback=rollback)
        before = train["step"]
    if attempt.begins_at > 0 or attempt.from_weights:
        raise InputError(
            f"{directory(run_dir)}: no checkpoint is left from which attempt {attempt.number} came "
            f"to step {place.step:,}; --checkpoint.keep-last keeps more of them"
        )
    return Origin(path=None, saved={}, rollback=None)


def _rollback(train: Mapping[str, Any], attempt: Attempt) -> Rollback | None:
    """Return the rollback with which an attempt went on from this checkpoint, if it did."""
    went_past = attempt.by_rollback or train["data_step"] != attempt.data_step
    if train["attempt"] == attempt.number or not went_past:
        return None
    return Rollback(step=train["step"], data_step=attempt.data_step, attempt=attempt.number)


def _refuse_other_ranks(n_saved: int, run_dir: Path, place: Place, *, n_ranks: int) -> None:
    if n_saved != n_ranks:
        raise InputError(
            f"{run_dir} was trained on {counted(n_saved, 'rank')}, whose sums are added in "
            f"another order than those of {n_ranks}: replay it with torchrun "
            f"--nproc_per_node {n_saved} -m trainer inspect {run_dir} --step {place.step} --replay"
        )


def _run(plan: Plan, world: World, run_dir: Path, engine: Any) -> Run:
    """Return a run that records nothing."""
    experiment: ExperimentConfig = plan.arguments.experiment
    return Run(
        experiment=experiment,
        run_dir=run_dir,
        corpus=plan.corpus,
        streams=plan.streams,
        reader=SegmentReader(plan.streams, world.device, n_ahead=0),
        engine=engine,
        passes=passes_of(engine, experiment.train, forgets=plan.streams.forgets_always),
        tracker=Tracker(),
        stops=StopRequests(),
        watch=FaultWatch(plan.streams, world),
        losses=StreamLosses(plan.streams.slots * plan.streams.micro, world.device),
        profiler=Profiler(None, run_dir=run_dir, world=world),
        background=Background(world),
        failures=Failures(),
        world=world,
        identity={},
        valid_of=plan.valid_of,
        peak_tokens_per_s=None,
    )


def _nats(run: Run, stats: StepStats) -> dict[int, float]:
    """Return the nats of all ranks' streams by id. Collective."""
    ids = np.concatenate([run.streams.stream_ids(slot) for slot in range(run.streams.slots)])
    own = list(zip(ids.tolist(), stats.nats_S.tolist(), strict=True))
    return dict(sorted(pair for part in gather_objects(own, run.world) for pair in part))


def _by_layer(norms: Mapping[str, float]) -> dict[str, float]:
    """Return norms by layer: of all parameters whose names agree up to the first number."""
    squares: dict[str, float] = {}
    for name, norm in norms.items():
        parts = name.split(".")
        n = next((i + 1 for i, part in enumerate(parts) if part.isdecimal()), 1)
        layer = ".".join(parts[:n])
        squares[layer] = squares.get(layer, 0.0) + norm**2
    return {layer: float(np.sqrt(square)) for layer, square in squares.items()}
