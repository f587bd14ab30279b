"""Spikes: losses far above those of the steps before, by a rolling median.

A step's loss is known two steps later, on all ranks alike: see `faults` beside this.
"""

import logging
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from trainer.checkpoint.state import TrainState
from trainer.training import duties
from trainer.training.bad_losses import recovery
from trainer.training.bad_losses.faults import STEPS_LATE, Verdict
from trainer.training.run import Run
from trainer.wording import counted

log = logging.getLogger(__name__)

#: No loss that is less than so many nats above the median is a spike.
LEAST_NATS = 0.1


class Usual(NamedTuple):
    """The losses of the steps before, which a loss is held against."""

    median: float
    limit: float
    """The largest loss that is no spike."""


def usual(losses: Sequence[float], *, mads: float) -> Usual:
    """Return what is usual: up to `mads` median absolute deviations above the median."""
    middle = median(losses)
    deviation = median(abs(loss - middle) for loss in losses)
    return Usual(middle, middle + max(mads * deviation, LEAST_NATS))


def handle_spike(run: Run, state: TrainState, verdict: Verdict) -> bool:
    """Hold a step's loss against those before it; warn of a spike, or roll back.

    Returns:
        Whether the run was rolled back.
    """
    limits = run.experiment.limits
    if limits.spike == "off" or verdict.known is None or verdict.known.loss is None:
        return False
    loss, recent = verdict.known.loss, state.recent_losses
    is_known = len(recent) >= limits.spike_window_steps
    # Of most steps the median is enough to know.
    is_high = is_known and loss > median(recent) + LEAST_NATS
    before = usual(recent, mads=limits.spike_mads) if is_high else None
    recent.append(loss)
    del recent[: -limits.spike_window_steps]
    if before is None or loss <= before.limit:
        state.spikes_in_a_row = 0
        return False
    state.spikes_in_a_row += 1
    bad_step = state.step - STEPS_LATE
    where = {"bad_step": bad_step, "loss": loss, **before._asdict()}
    if state.spikes_in_a_row == 1:
        duties.event(run, state, "spike", **where)
        duties.file_losses(run, state, bad_step=bad_step)
    if limits.spike == "warn" or state.spikes_in_a_row != limits.spike_steps:
        return False
    n_steps = counted(state.spikes_in_a_row, "step")
    first = bad_step - state.spikes_in_a_row + 1
    newest = recovery.newest_before(run, first)
    if newest.path is None or newest.state["train"]["step"] == state.spiked_back_to:
        why = "there is no checkpoint of before" if newest.path is None else "again from there"
        if run.world.is_main:
            log.warning("losses spiked for %s, and the run goes on: %s", n_steps, why)
        return False
    recovery.roll_back(run, state, newest, cause="spike", **where)
    return True
