"""Saving the checkpoints of a run.

A checkpoint holds the run as it was at its step, but is written during later steps. When it is
written, the event `checkpoint` or `checkpoint_failed` is recorded with the checkpoint's step; until
then the pointers name older checkpoints. All functions are called by all ranks at the same step.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.checkpoint import pointers
from trainer.checkpoint.contents import tensors
from trainer.checkpoint.folder import directory, resolve
from trainer.checkpoint.sealing import prune
from trainer.checkpoint.state import TrainState
from trainer.distributed import on_main, sum_floats
from trainer.errors import InputError
from trainer.training.due import checkpoint_is_due
from trainer.training.run import Run

log = logging.getLogger(__name__)


def save_if_due(run: Run, state: TrainState) -> None:
    """Begin to save if a checkpoint is due; wait for the previous save first.

    A save that fails does not end the run: the failure is recorded.
    """
    if checkpoint_is_due(run.experiment, state):
        with run.tracker.pause("saving", step=state.step, update=state.update):
            run.background.start(_save_or_record_why_not(run, state))


def save_now(run: Run, state: TrainState) -> None:
    """Save a checkpoint at once; no other save may be under way.

    Raises:
        OSError: on every rank, when any could not write; older checkpoints are untouched.
    """
    for work in _save(run, state):
        work()


def save_last(run: Run, state: TrainState) -> str | None:
    """Save a checkpoint at once, as `save_now` does; return why not, and which one is newest."""
    try:
        save_now(run, state)
    except OSError as error:
        log.error("%s", error)
        run.tracker.event("checkpoint_failed", **state.counters, error=str(error), says=False)
        newest = on_main(lambda: _newest_there(run.run_dir), run.world)
        return f"{error}; {newest}"
    return None


def _newest_there(run_dir: Path) -> str:
    """Return a phrase that says which checkpoint a later start will find; read no tensors."""
    try:
        return f"the newest is {resolve(run_dir, 'last').name}"
    except InputError:
        return "there is no checkpoint"


def mark_best(run: Run, step: int) -> None:
    """Point ``best`` at the checkpoint of `step`, if it was written."""
    if not run.world.is_main:
        return
    folder, name = directory(run.run_dir), pointers.name_of(step)
    if pointers.pointed(folder, "best") == name or not (folder / name).is_dir():
        return
    try:
        pointers.point(folder, "best", name)
    except OSError as error:
        log.error("the pointer `best` was not moved: %s", error)


def _save_or_record_why_not(run: Run, state: TrainState) -> Iterator[Callable[[], None]]:
    counters = state.counters
    try:
        yield from _save(run, state)
    except OSError as error:
        run.failures.tell("checkpoint", f"{error}; training goes on, and tries again later")
        run.tracker.event("checkpoint_failed", **counters, error=str(error), says=False)


def _save(run: Run, state: TrainState) -> Iterator[Callable[[], None]]:
    """Save this step and drop old checkpoints, as a job for `Background`."""
    # Rank 0 gets the sums, here as in the file, so that any number of ranks can go on with them.
    (loss_sum,) = sum_floats([float(state.window_loss_sum)], run.world)
    state.window_loss_sum.fill_(loss_sum if run.world.is_main else 0.0)
    extra = run.window_extra(state)
    for name, loss in state.window_extra.items():
        loss.fill_(extra[name] if run.world.is_main else 0.0)
    under_way = run.watch.under_way()
    state.unjudged_losses = [known.loss for known in under_way]
    state.unjudged_streams = [known.bad_streams for known in under_way]
    step, counters, best_step = state.step, state.counters, state.best_step
    before, state.saved_step = state.saved_step, step
    folder = directory(run.run_dir)
    ids = [run.streams.stream_ids(slot).tolist() for slot in range(run.engine.slots)]
    try:
        yield from tensors.save(
            folder,
            step=step,
            engine=run.engine,
            world=run.world,
            state=run.identity | {"train": state.to_json(), "engine": run.engine.scalars()},
            memories=list(zip(ids, state.memories, strict=True)),
        )
    except OSError:
        state.saved_step = before
        raise

    def tidy() -> None:
        if best_step is not None:
            mark_best(run, best_step)  # again: it may have failed before
        if run.world.is_main:
            spared = [] if best_step is None else [pointers.name_of(best_step)]
            keep_last = run.experiment.checkpoint.keep_last
            prune(folder, keep_last=keep_last, spared=spared)
        run.tracker.sync()

    yield tidy
    run.tracker.event("checkpoint", **counters, path=pointers.name_of(step))
