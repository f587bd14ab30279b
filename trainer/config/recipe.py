"""Recipes: finding an experiment's JSON by name or path, and refusing it with every reason."""

import json
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, cast

from pydantic import ValidationError

from trainer.config import strict
from trainer.config.experiment import ExperimentConfig, OptimConfig, ScoringConfig
from trainer.config.fields import OnResume
from trainer.config.model_settings import ModelConfig
from trainer.config.run_settings import TrackingConfig
from trainer.errors import InputError
from trainer.outside import parse_json

#: The path of a factory's own options.
OPTIONS = "model.options"

__all__ = [
    "OPTIONS",
    "ExperimentConfig",
    "ModelConfig",
    "OnResume",
    "OptimConfig",
    "ScoringConfig",
    "TrackingConfig",
    "experiment_from",
    "load_recipe",
    "parse_experiment",
    "recipe_names",
    "resume_class",
]


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes, sorted."""
    return strict.packaged_names(_recipes())


def load_recipe(recipe: str) -> ExperimentConfig:
    """Read a packaged recipe by name, or a JSON file by path.

    Raises:
        InputError: the recipe does not exist, or is not a valid experiment.
    """
    text = strict.read_named(recipe, _recipes(), kind="recipe")
    return parse_experiment(text, where=f"recipe {recipe}")


def _recipes() -> Traversable:
    return resources.files("trainer") / "recipes"


def parse_experiment(text: bytes, *, where: str) -> ExperimentConfig:
    """Parse an experiment's JSON; `where` names its source in errors.

    Raises:
        InputError: lists every problem in one line.
    """
    values = parse_json(text, where=where, unique_keys=strict.unique_keys)
    return experiment_from(values, where=where)


def experiment_from(
    values: Any, *, where: str, schema: type[ExperimentConfig] = ExperimentConfig
) -> ExperimentConfig:
    """Validate plain values as an experiment; raise `InputError` that lists every problem.

    `schema` is of a factory's experiments: see `trainer.config.factory`.
    """
    try:
        # By JSON's strict rules a list may be a tuple and 1 a float, but "1" is no number.
        return schema.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problems = strict.describe(error, schema)
        raise InputError(f"{where}: {'; '.join(problems)}") from None


def resume_class(path: str) -> OnResume:
    """Return what a change on resume means for the field at dotted `path`; else `KeyError`.

    A factory's options may change no more than all of them may, `model.options`.
    """
    if path.startswith(f"{OPTIONS}."):
        path = OPTIONS
    *parents, leaf = path.split(".")
    part = strict.model_at(ExperimentConfig, *parents)
    if part is None or leaf not in part.model_fields:
        raise KeyError(path)
    extra = part.model_fields[leaf].json_schema_extra
    assert isinstance(extra, dict)
    return cast(OnResume, extra["on_resume"])
