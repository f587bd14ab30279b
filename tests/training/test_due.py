"""What is due at a step follows from the settings and the state alone."""

import math
from typing import Any

import pytest

from trainer.checkpoint.state import TrainState
from trainer.config.recipe import ExperimentConfig, experiment_from, load_recipe
from trainer.training import due


def experiment(**sections: dict[str, Any]) -> ExperimentConfig:
    values = load_recipe("quickstart").model_dump(mode="json")
    for name, changes in sections.items():
        values[name] |= changes
    return experiment_from(values, where="test")


def steps(is_due: Any, every: ExperimentConfig, **state: Any) -> list[int]:
    """Return the steps of the first ten, the beginning included, at which something is due."""
    return [step for step in range(11) if is_due(every, TrainState(step=step, **state))]


def test_what_has_an_interval_is_due_at_its_multiples() -> None:
    every = experiment(
        tracking={"log_interval_steps": 2},
        sample={"interval_steps": 3},
        valid={"interval_steps": 4},
        checkpoint={"interval_steps": 5},
    )
    assert steps(due.record_is_due, every)[1:] == [2, 4, 6, 8, 10]
    assert steps(due.sample_is_due, every)[1:] == [3, 6, 9]
    assert steps(due.validation_is_due, every) == [4, 8]
    assert steps(due.checkpoint_is_due, every)[1:] == [5, 10]


def test_an_interval_of_zero_is_never() -> None:
    never = experiment(
        sample={"interval_steps": 0}, valid={"interval_steps": 0}, checkpoint={"interval_steps": 0}
    )
    for is_due in (due.sample_is_due, due.validation_is_due, due.checkpoint_is_due):
        assert steps(is_due, never) == []
    assert not due.validation_is_due(never, TrainState(step=3), at_end=True)
    ends = [
        step
        for step in range(3)
        if due.checkpoint_is_due(never, TrainState(step=step), at_end=True)
    ]
    assert ends == [1, 2]


def test_a_parents_weights_are_validated_before_the_first_step() -> None:
    every = experiment(valid={"interval_steps": 4})
    assert steps(due.validation_is_due, every, parent="somewhere") == [0, 4, 8]


def test_nothing_is_done_twice_at_a_step() -> None:
    every = experiment(valid={"interval_steps": 4}, checkpoint={"interval_steps": 4})
    assert steps(due.validation_is_due, every, validated_step=4) == [8]
    assert steps(due.checkpoint_is_due, every, saved_step=4)[1:] == [8]
    done = TrainState(step=6, validated_step=6, saved_step=6)
    assert not due.validation_is_due(every, done, at_end=True)
    assert not due.checkpoint_is_due(every, done, at_end=True)


def test_a_new_best_is_saved_between_intervals() -> None:
    every = experiment(checkpoint={"interval_steps": 5})
    assert steps(due.checkpoint_is_due, every, best_step=7)[1:] == [5, 7, 10]


def test_a_run_that_did_no_step_leaves_no_checkpoint() -> None:
    assert not due.checkpoint_is_due(experiment(), TrainState(), at_end=True)


@pytest.mark.parametrize(
    ("best", "loss", "is_new"),
    [
        (None, 3.0, True),
        (3.0, 2.5, True),
        (3.0, 3.0, False),
        (3.0, 3.5, False),
        (None, math.nan, False),
        (None, math.inf, False),
    ],
)
def test_the_lowest_finite_loss_is_the_best(best: float | None, loss: float, is_new: bool) -> None:
    assert due.is_new_best(TrainState(best_loss=best), loss) == is_new


def test_updates_and_patience_end_a_run() -> None:
    ends = experiment(train={"max_steps": 10}, optim={"warmup_steps": 0}, valid={"patience": 2})
    assert not due.is_done(ends, TrainState(step=12, skipped_steps=3, evals_since_best=1))
    assert due.is_done(ends, TrainState(step=13, skipped_steps=3))
    assert due.is_done(ends, TrainState(step=1, evals_since_best=2))


@pytest.mark.parametrize("last_step", [9, 10, 12])
@pytest.mark.parametrize(("valid", "sample", "save"), [(4, 3, 5), (0, 0, 0), (10, 12, 9)])
def test_the_pauses_foretold_are_those_that_come(
    valid: int, sample: int, save: int, last_step: int
) -> None:
    every = experiment(
        valid={"interval_steps": valid},
        sample={"interval_steps": sample},
        checkpoint={"interval_steps": save},
    )
    came = dict.fromkeys(("validating", "sampling", "saving"), 0)
    for step in range(1, last_step + 1):
        state, at_end = TrainState(step=step), step == last_step
        came["sampling"] += due.sample_is_due(every, state)
        came["validating"] += due.validation_is_due(every, state, at_end=at_end)
        came["saving"] += due.checkpoint_is_due(every, state, at_end=at_end)
    foretold = due.pauses(every, validates=True)
    for name, n_came in came.items():
        pause = foretold.get(name)
        to_come = 0 if pause is None else pause.n_to_come(done_step=0, last_step=last_step)
        assert to_come == n_came, name
    assert "validating" not in due.pauses(every, validates=False)
