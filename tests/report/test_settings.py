"""Settings of runs are compared by path, with recipes and with each other."""

import json
from pathlib import Path

import pytest

from trainer.config.recipe import load_recipe
from trainer.errors import InputError
from trainer.report.settings import (
    differences,
    last_command,
    read_environment,
    read_settings,
    recipe_differences,
)


def settings(folder: Path, recipe: str, **changes: object) -> Path:
    """Return a run directory of a recipe with some fields of `train` changed."""
    values = load_recipe(recipe).model_dump(mode="json")
    values["train"] |= changes
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_what_differs_from_the_recipe_that_the_command_names_is_found(tmp_path: Path) -> None:
    run = settings(tmp_path, "wt103-base", mem_len=75)
    (run / "command.txt").write_text("launch/train.py other\nlaunch/train.py wt103-base --x 1\n")
    found = recipe_differences(run, read_settings(run))
    assert (found.recipe, found.is_named) == ("wt103-base", True)
    assert found.rows == (("train.mem_len", "150", "75"),)
    assert last_command(run) == "launch/train.py wt103-base --x 1"


@pytest.mark.parametrize("command", [None, "", "train.py mine.json", "train.py 'torn"])
def test_without_a_named_recipe_the_most_similar_is_taken(
    tmp_path: Path, command: str | None
) -> None:
    run = settings(tmp_path, "enwik8-base", max_steps=7)
    if command is not None:
        (run / "command.txt").write_text(command)
    found = recipe_differences(run, read_settings(run))
    assert (found.recipe, found.is_named) == ("enwik8-base", False)
    assert [row.path for row in found.rows] == ["train.max_steps"]


def test_settings_that_are_not_known_here_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"train": {"new": [1, {"a": "b"}]}, "seed": 5}')
    assert read_settings(tmp_path) == {"train.new": '[1, {"a": "b"}]', "seed": "5"}


def test_both_sides_of_a_difference_are_told_and_what_one_side_lacks() -> None:
    found = differences({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "4", "d": "5"})
    assert found == (("b", "2", "4"), ("d", "-", "5"), ("c", "3", "-"))
    assert differences({"a": "1"}, {"a": "1"}) == ()


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "NaN"])
def test_what_is_no_experiment_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "environment.json").write_text(text)
    for read in (read_settings, read_environment):
        with pytest.raises(InputError):
            read(tmp_path)
