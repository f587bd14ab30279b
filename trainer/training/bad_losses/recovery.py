"""Restoring a run from a checkpoint, at a start or after losses that were not finite."""

import logging
from functools import partial
from pathlib import Path
from typing import Any, Literal

from trainer.checkpoint.contents.memories import read_memories
from trainer.checkpoint.contents.tensors import load_engine
from trainer.checkpoint.folder import Newest, directory, newest_whole
from trainer.checkpoint.hashing import led_with_hashes
from trainer.checkpoint.rollback import Rollback
from trainer.checkpoint.sealing import go_back
from trainer.checkpoint.state import TrainState
from trainer.errors import NonFiniteError
from trainer.outside import printable
from trainer.training import duties
from trainer.training.bad_losses.faults import STEPS_LATE, Known, Verdict
from trainer.training.run import Run
from trainer.wording import counted

log = logging.getLogger(__name__)


def restore(
    path: Path,
    saved: dict[str, Any],
    *,
    run: Run,
    state: TrainState,
    rollback: Rollback | None = None,
) -> None:
    """Load the verified checkpoint at `path` into the engine and `state`, with its memories.

    After a `rollback` to it, the run goes on behind the text that failed, with memories that have
    not read it.
    """
    state.load_json(saved["train"])
    if not _compares_with_best(state, saved, run):
        log.info("validations are of %s, other than before: the best begins anew", run.valid_of)
        state.forget_best()
    if not run.world.is_main:
        state.window_loss_sum.zero_()  # rank 0 has the sums of all ranks
        state.window_extra.clear()
    scalars = saved["engine"]
    load_engine(path, run.engine, optimizer_step=scalars["optimizer_step"])
    run.engine.load_scalars(scalars, step=state.step, skipped_steps=state.skipped_steps)
    ids = [run.streams.stream_ids(slot).tolist() for slot in range(run.engine.slots)]
    state.memories = read_memories(path, ids, unread=run.empty_memories(state.data_step))
    if rollback is not None:
        state.data_step, state.memories = rollback.data_step, []
        state.rolled_back, state.spiked_back_to = rollback.rolled_back, rollback.spiked_back_to
        state.nonfinite_in_a_row = state.spikes_in_a_row = 0
        duties.clear_window(state)
    run.watch.load(map(Known, state.unjudged_losses, state.unjudged_streams))


def _listed(numbers: list[int]) -> str:
    return printable(", ".join(map(str, numbers)), most=200)


def _compares_with_best(state: TrainState, saved: dict[str, Any], run: Run) -> bool:
    """Return whether a checkpoint's best loss measures what this run's validations measure."""
    if run.valid_of is None or state.best_loss is None:
        return True
    if state.best_of is not None:
        return state.best_of.key == run.valid_of.key
    split_hash = run.valid_of.split_hash  # older checkpoints only have this
    return bool(split_hash == (saved.get("splits") or {}).get("valid", split_hash))


def handle_nonfinite(run: Run, state: TrainState, verdict: Verdict) -> bool:
    """Count steps with a non-finite loss; at the limit roll back once, then give up.

    Returns:
        Whether the run was rolled back.

    Raises:
        NonFiniteError: a rollback is spent already, or there is nothing to roll back to.
    """
    if not verdict.bad_streams:
        state.nonfinite_in_a_row = 0
        return False
    state.nonfinite_in_a_row += 1
    ranks = run.watch.ranks_of(verdict.bad_streams)
    bad_step = state.step - STEPS_LATE
    where = {"bad_step": bad_step, "ranks": ranks, "streams": verdict.bad_streams}
    duties.event(run, state, "nonfinite", in_a_row=state.nonfinite_in_a_row, **where)
    is_last = state.nonfinite_in_a_row == run.experiment.limits.nonfinite_steps
    if state.nonfinite_in_a_row == 1 or is_last:
        duties.file_losses(run, state, bad_step=bad_step)
    if state.nonfinite_in_a_row < run.experiment.limits.nonfinite_steps:
        return False
    what = (
        f"the loss was not finite for {counted(state.nonfinite_in_a_row, 'step')} up to step "
        f"{bad_step}, on rank {_listed(ranks)}, stream {_listed(verdict.bad_streams)}"
    )
    first = bad_step - state.nonfinite_in_a_row + 1  # a later checkpoint may be bad too
    newest = newest_before(run, first)
    if state.rolled_back or newest.path is None:
        spent = (
            "after a rollback"
            if state.rolled_back
            else "and there is no whole checkpoint of before"
        )
        raise NonFiniteError(f"{what}, {spent}: lower --optim.lr or look at the text there")
    roll_back(run, state, newest, cause="nonfinite", **where)
    return True


def newest_before(run: Run, step: int) -> Newest:
    """Return the newest whole checkpoint saved before `step`. Collective."""
    run.background.wait()
    folder = directory(run.run_dir)
    return led_with_hashes(partial(newest_whole, folder, before_step=step), run.world)


def roll_back(
    run: Run,
    state: TrainState,
    newest: Newest,
    *,
    cause: Literal["nonfinite", "spike"],
    **where: Any,
) -> None:
    """Go on from an earlier checkpoint, behind the text that was read since. Collective."""
    assert newest.path is not None, "there is a checkpoint to go back to"
    run.watch.drain()
    wandb_id, step = state.wandb_id, newest.state["train"]["step"]
    rollback = Rollback(
        step=step,
        data_step=state.data_step,
        attempt=state.attempt + 1,
        rolled_back=state.rolled_back or cause == "nonfinite",
        spiked_back_to=step if cause == "spike" else state.spiked_back_to,
    )
    if run.world.is_main:  # before a step: a kill must not bring the newer checkpoints back
        go_back(directory(run.run_dir), rollback)
    restore(newest.path, newest.state, run=run, state=state, rollback=rollback)
    state.attempt, state.wandb_id = rollback.attempt, wandb_id
    run.losses.clear()
    run.tracker.begin_attempt(state.attempt, step=state.step)
    at = {"path": newest.path.name, "data_step": state.data_step, "cause": cause}
    duties.event(run, state, "rollback", **at, **where)
