"""The experiment as a recipe's JSON says it: found by name or path, refused with every reason."""

import json
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, cast

from pydantic import ValidationError

from trainer.config import strict
from trainer.config.experiment import (
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    ScoringConfig,
)
from trainer.config.fields import OnResume
from trainer.config.run_settings import TrackingConfig
from trainer.errors import InputError
from trainer.outside import parse_json

__all__ = [
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
    """Names of the packaged recipes, sorted."""
    return strict.packaged_names(_recipes())


def load_recipe(recipe: str) -> ExperimentConfig:
    """Read a packaged recipe by name, or a JSON file by path.

    Raises:
        InputError: there is no such recipe, or it is not a valid experiment.
    """
    text = strict.read_named(recipe, _recipes(), kind="recipe")
    return parse_experiment(text, where=f"recipe {recipe}")


def _recipes() -> Traversable:
    return resources.files("trainer") / "recipes"


def parse_experiment(text: bytes, *, where: str) -> ExperimentConfig:
    """Parse an experiment's JSON; `where` names it in errors.

    Raises:
        InputError: every problem found, in one line.
    """
    values = parse_json(text, where=where, unique_keys=strict.unique_keys)
    return experiment_from(values, where=where)


def experiment_from(values: Any, *, where: str) -> ExperimentConfig:
    """Validate plain values as an experiment; raises `InputError` listing every problem."""
    try:
        # JSON's strict rules: a list is a tuple and 1 is a number, but "1" is neither.
        return ExperimentConfig.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problems = strict.describe(error, ExperimentConfig)
        raise InputError(f"{where}: {'; '.join(problems)}") from None


def resume_class(path: str) -> OnResume:
    """Return the class of a change of the field at dotted `path` on resume; `KeyError` for none."""
    *parents, leaf = path.split(".")
    part = strict.model_at(ExperimentConfig, *parents)
    if part is None or leaf not in part.model_fields:
        raise KeyError(path)
    extra = part.model_fields[leaf].json_schema_extra
    assert isinstance(extra, dict)
    return cast(OnResume, extra["on_resume"])
