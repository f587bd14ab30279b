"""What may change on resume does so in the open; what may not is refused, all of it at once."""

from typing import Any

import pytest
from builders import tiny_experiment

from trainer.config.changes import admit, changes, split_changes
from trainer.config.recipe import ExperimentConfig
from trainer.errors import InputError


def saved(**parts: dict[str, Any]) -> dict[str, Any]:
    """Return an experiment as a checkpoint holds it."""
    return tiny_experiment(**parts).model_dump(mode="json")


def admitted(new: ExperimentConfig, *allowed: str) -> list[str]:
    return list(map(str, admit(saved(), new, allowed=allowed, where="runs/a")))


def test_an_experiment_read_back_has_not_changed() -> None:
    betas: dict[str, Any] = {"lr": 1e-3, "betas": (0.5, 0.9)}
    tags: dict[str, Any] = {"tags": ("a", "b")}
    old, new = saved(optim=betas, tracking=tags), tiny_experiment(optim=betas, tracking=tags)
    assert changes(old, new) == []


def test_a_field_that_came_later_had_its_default_before() -> None:
    old = saved()
    del old["optim"]["type"], old["expect"], old["eval"]["clamp_len"]
    assert changes(old, tiny_experiment()) == []
    (change,) = changes(old, tiny_experiment(optim={"lr": 1e-3, "type": "Lamb"}))
    assert str(change) == 'optim.type "Adam", not "Lamb"'


def test_a_change_says_what_was_and_not_what_is_to_be() -> None:
    new = tiny_experiment(train={"max_steps": 20}, model={"dropout": 0.5}, tracking={"name": "x"})
    told = {str(change): change.on_resume for change in changes(saved(), new)}
    assert told == {
        "train.max_steps 10, not 20": "announced",
        "model.dropout 0.0, not 0.5": "announced",
        'tracking.name null, not "x"': "free",
    }


def test_free_changes_are_taken_silently() -> None:
    assert admitted(tiny_experiment(tracking={"tags": ("x",)}, checkpoint={"keep_last": 9})) == []


@pytest.mark.parametrize("name", ["max_steps", "max-steps", "train.max_steps", "train.max-steps"])
def test_announced_changes_are_taken_by_any_spelling_of_their_name(name: str) -> None:
    new = tiny_experiment(train={"max_steps": 20})
    assert admitted(new, name) == ["train.max_steps 10, not 20"]


def test_unannounced_changes_are_refused_with_the_flags_that_allow_them() -> None:
    new = tiny_experiment(train={"max_steps": 20}, optim={"lr": 1.0}, model={"dropout": 0.5})
    with pytest.raises(InputError) as refusal:
        admitted(new, "optim.lr")
    told = str(refusal.value)
    assert told.startswith("runs/a ")
    assert "--allow-change model.dropout --allow-change train.max_steps" in told
    assert "optim.lr" not in told


def test_what_makes_another_run_is_refused_whatever_was_announced() -> None:
    new = tiny_experiment(train={"tgt_len": 5, "max_steps": 20}, model={"d_head": 4})
    with pytest.raises(InputError) as refusal:
        admitted(new, "tgt_len", "d_head")
    told = str(refusal.value)
    for part in (
        "model.d_head 3, not 4",
        "train.tgt_len 4, not 5",
        "--allow-change train.max_steps",
    ):
        assert part in told
    assert "\n" not in told


def test_splits_that_are_not_what_they_were_are_told_by_name() -> None:
    old = {"train": "1" * 32, "valid": "2" * 32, "test": "3" * 32}
    assert split_changes(old, dict(old)) == []
    new = {"train": "1" * 32, "valid": "4" * 32}
    told = list(map(str, split_changes(old, new)))
    assert told == ['splits.test "33333333", not null', 'splits.valid "22222222", not "44444444"']
    assert next(map(str, split_changes(new, old))) == 'splits.test null, not "33333333"'


def test_a_change_is_recorded_as_plain_values() -> None:
    new = tiny_experiment(train={"max_steps": 20}, tracking={"name": "x"}, optim={"betas": (0, 0)})
    told = [change.to_json() for change in changes(saved(), new)]
    assert told == [
        {"field": "train.max_steps", "before": 10, "after": 20},
        {"field": "optim.betas", "before": [0.9, 0.999], "after": [0.0, 0.0]},
        {"field": "tracking.name", "before": None, "after": "x"},
    ]
