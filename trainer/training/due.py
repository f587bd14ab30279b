"""Deciding what is due at a step, and whether a validation found a new best.

Every rank asks at the same step and gets the same answer, which depends only on the settings and
the state. `trainer.training.duties` and `trainer.training.saving` do what is due.
"""

import math

from trainer.checkpoint.state import TrainState
from trainer.config.recipe import ExperimentConfig
from trainer.track.console.eta import Pause

#: Steps between two looks at a block of the corpus: a look costs some milliseconds.
CHECKED_STEPS = 500


def is_done(experiment: ExperimentConfig, state: TrainState) -> bool:
    """Return whether `max_steps` updates were applied, or patience is exhausted."""
    patience = experiment.valid.patience
    out_of_patience = patience is not None and state.evals_since_best >= patience
    return out_of_patience or state.update >= experiment.train.max_steps


def anything_is_due(experiment: ExperimentConfig, state: TrainState) -> bool:
    """Return whether something is due that looks at what became of the last update."""
    return (
        record_is_due(experiment, state)
        or sample_is_due(experiment, state)
        or validation_is_due(experiment, state)
        or checkpoint_is_due(experiment, state)
        or is_done(experiment, state)
    )


def record_is_due(experiment: ExperimentConfig, state: TrainState) -> bool:
    """Return whether the window of steps that one record describes ends."""
    return _ends_interval(state, experiment.tracking.log_interval_steps)


def sample_is_due(experiment: ExperimentConfig, state: TrainState) -> bool:
    """Return whether a sample of text is to be drawn."""
    return _ends_interval(state, experiment.sample.interval_steps)


def validation_is_due(
    experiment: ExperimentConfig, state: TrainState, *, at_end: bool = False
) -> bool:
    """Return whether to score the valid split: at every interval and `at_end`, once a step.

    Before the first step, weights taken from a parent run are scored, but random weights are not.
    """
    interval_steps = experiment.valid.interval_steps
    if not interval_steps or state.validated_step == state.step:
        return False
    is_random = state.step == 0 and state.parent is None
    return at_end or (not is_random and _ends_interval(state, interval_steps))


def checkpoint_is_due(
    experiment: ExperimentConfig, state: TrainState, *, at_end: bool = False
) -> bool:
    """Return whether to save: at every interval, at a new best and `at_end`, once a step.

    A run that ends before its first step has nothing to save.
    """
    if state.saved_step == state.step:
        return False
    if at_end:
        return state.step > 0
    is_best = state.best_step == state.step
    return is_best or _ends_interval(state, experiment.checkpoint.interval_steps)


def corpus_check_is_due(state: TrainState) -> bool:
    """Return whether a block of the corpus is to be compared with its hash."""
    return _ends_interval(state, CHECKED_STEPS)


def pauses(experiment: ExperimentConfig, *, validates: bool) -> dict[str, Pause]:
    """Return by name when a run will not train for a while; `validates`: there is a valid split.

    A checkpoint of a new best and the end of patience come when nobody knows, and are not counted.
    """
    valid_steps = experiment.valid.interval_steps
    named = {
        "sampling": Pause(experiment.sample.interval_steps, at_end=False),
        "saving": Pause(experiment.checkpoint.interval_steps, at_end=True),
    }
    if validates and valid_steps:
        named["validating"] = Pause(valid_steps, at_end=True)
    return named


def is_new_best(state: TrainState, loss: float) -> bool:
    """Return whether a validation's loss is the lowest of all losses comparable with it."""
    return math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss)


def _ends_interval(state: TrainState, interval_steps: int) -> bool:
    return interval_steps > 0 and state.step % interval_steps == 0
