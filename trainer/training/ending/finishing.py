"""The end of a run or of an attempt: its last validation and checkpoint, and its judgement."""

import logging

from trainer.checkpoint.state import TrainState
from trainer.distributed import gather_objects, on_main
from trainer.errors import Exit
from trainer.track.run_files.status import RunState
from trainer.training import due, duties, saving
from trainer.training.ending.expectations import missed
from trainer.training.ending.stopping import STOP_FILE, Wish
from trainer.training.run import Run

log = logging.getLogger(__name__)


def finish(run: Run, state: TrainState, wish: Wish) -> Exit:
    """End a run or an attempt: validate if done, save, judge, and record how it ended."""
    if wish is not Wish.NONE and run.world.is_main:
        log.info("asked to stop: saving what was trained")
    duties.tell_trace(run, state, run.profiler.close())
    if run.profiler.missed:
        first, last = run.profiler.missed
        log.warning(
            "nothing was profiled: no step of this attempt begins --profile %s:%s", first, last
        )
    run.background.wait()
    if wish is Wish.NONE:
        wish = duties.validate_if_due(run, state, at_end=True)
    unsaved = None
    if due.checkpoint_is_due(run.experiment, state, at_end=True):
        with duties.pause(run, state, "saving"):
            unsaved = saving.save_last(run, state)
    run.watch.drain()
    reason = _reason(run, wish)
    ending: dict[Wish, tuple[RunState, Exit]] = {
        Wish.NONE: ("done", Exit.DONE),
        Wish.REQUEUE: ("requeue", Exit.REQUEUE),
        Wish.STOP: ("stopped", Exit.STOPPED),
    }
    run_state, code = ending[wish]
    if unsaved is not None:  # what was asked for is still what a wrapper is told
        reason = f"{reason}, but {unsaved}" if reason else unsaved
        if wish is Wish.NONE:
            run_state, code = "failed", Exit.UNSAVED
    expect = run.experiment.expect
    result, of = duties.result(run, state), run.valid_of
    lacks = []
    if run_state == "done":
        lacks = on_main(lambda: missed(expect, result, best_of=state.best_of, of=of), run.world)
    if lacks:
        reason, code = f"missed {'; '.join(lacks)}", Exit.EXPECTATION
        duties.event(run, state, "expectation", missed=lacks)
    duties.event(run, state, "stop", reason=reason or run_state)
    status = duties.set_status(run, state, run_state, reason=reason or None, code=code)
    if status is not None:
        run.tracker.end(status, run=str(run.run_dir), splits=tuple(run.corpus.splits))
    if wish is Wish.STOP and run.world.is_main:
        try:
            (run.run_dir / STOP_FILE).unlink(missing_ok=True)  # the request was obeyed
        except OSError as error:
            log.error("%s is still there and would stop the next attempt: %s", STOP_FILE, error)
    return code


def _reason(run: Run, wish: Wish) -> str:
    """Return the reason for the agreed request, from the lowest rank that received it."""
    asked = gather_objects((run.stops.wish, run.stops.reason), run.world)
    return next((reason for own, reason in asked if own is wish), "")
