"""The settings of a run, and how they differ from a recipe's or another run's."""

import contextlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trainer.config.recipe import experiment_from, load_recipe, recipe_names
from trainer.errors import InputError
from trainer.outside import MAX_JSON_BYTES, printable, read_bytes, read_json

CONFIG_FILE, COMMAND_FILE, ENVIRONMENT_FILE = "config.json", "command.txt", "environment.json"
#: Settings in which two runs of one recipe may differ without being another experiment.
SEED = "seed"


class Difference(NamedTuple):
    """A setting that differs, with both values as JSON; ``-`` where one side lacks it."""

    path: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class RecipeDifferences:
    """The settings of a run that are not its recipe's."""

    recipe: str
    is_named: bool
    """True if the run's command names the recipe; if not, it is the most similar one."""
    rows: tuple[Difference, ...]


def read_settings(run_dir: Path) -> dict[str, str]:
    """Return a run's settings as JSON by dotted path, with the defaults of those it lacks.

    Settings that this version does not know stay as they are.

    Raises:
        InputError: the run has no `config.json`, or it is no JSON.
    """
    path = run_dir / CONFIG_FILE
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: not an experiment")
    with contextlib.suppress(InputError):  # a newer version's, or broken: what it says is shown
        values = experiment_from(values, where=str(path)).model_dump(mode="json")
    return flat(values)


def flat(values: Mapping[str, Any], *, prefix: str = "") -> dict[str, str]:
    """Return nested values as JSON by dotted path."""
    found: dict[str, str] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, prefix=f"{path}.")
        else:
            found[path] = printable(json.dumps(value, ensure_ascii=False), most=200)
    return found


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Difference, ...]:
    """Return the paths at which two runs' settings differ, in the order of `after`."""
    paths = [*after, *(path for path in before if path not in after)]
    both = [Difference(path, before.get(path, "-"), after.get(path, "-")) for path in paths]
    return tuple(row for row in both if row.before != row.after)


def recipe_differences(run_dir: Path, settings: Mapping[str, str]) -> RecipeDifferences:
    """Return how settings differ from the recipe that the run's command names.

    If it names no packaged recipe, the most similar one is taken.
    """
    named = _named_recipe(run_dir)
    names = [named] if named else recipe_names()
    found = {
        name: differences(flat(load_recipe(name).model_dump(mode="json")), settings)
        for name in names
    }
    recipe = min(found, key=lambda name: len(found[name]))
    rows = tuple(row for row in found[recipe] if row.path != "source")
    return RecipeDifferences(recipe=recipe, is_named=named is not None, rows=rows)


def last_command(run_dir: Path) -> str | None:
    """Return the command of the run's last attempt; None if it is not known."""
    try:
        text = read_bytes(run_dir / COMMAND_FILE, most_bytes=MAX_JSON_BYTES)
    except InputError:
        return None
    lines = text.decode("utf-8", "backslashreplace").strip().splitlines()
    return lines[-1] if lines else None


def read_environment(run_dir: Path) -> dict[str, Any]:
    """Return what `environment.json` says of versions, hosts and commit; nothing if it is broken.

    Raises:
        InputError: the file is there, but is no such file.
    """
    path = run_dir / ENVIRONMENT_FILE
    if not path.exists():
        return {}
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: not an environment")
    return values


def count_ranks(environment: Mapping[str, Any]) -> int | None:
    """Return the number of ranks of the last attempt, one per host named; None if unknown."""
    hosts = environment.get("hosts")
    return len(hosts) if isinstance(hosts, list) and hosts else None


def _named_recipe(run_dir: Path) -> str | None:
    try:
        words = shlex.split(last_command(run_dir) or "")
    except ValueError:
        return None
    names = recipe_names()
    return next((word for word in words if word in names), None)
