"""Finding the settings that changed between a run and its resumption, and refusing some."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from trainer.config.factory import experiment_type
from trainer.config.recipe import ExperimentConfig, OnResume, resume_class
from trainer.config.strict import model_at
from trainer.errors import InputError
from trainer.outside import printable


@dataclass(frozen=True)
class Change:
    """A field that differs."""

    path: str
    old: Any
    new: Any
    on_resume: OnResume

    def __str__(self) -> str:
        """Return the old value and the new one: ``train.max_steps 100, not 200``."""
        return f"{self.path} {_told(self.old)}, not {_told(self.new)}"

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for the record."""
        return {"field": self.path, "before": self.old, "after": self.new}


def changes(old: Mapping[str, Any], new: ExperimentConfig) -> list[Change]:
    """Return the fields of a saved experiment that `new` sets differently.

    A field that did not exist when `old` was saved counts with its default, as does an option of
    the factory of `new`, which is imported.
    """
    filled = _filled(old, experiment_type(new.model.builder))
    return [
        Change(path, before, after, resume_class(path))
        for path, before, after in _differences(filled, new.model_dump(mode="json"), prefix="")
    ]


def admit(
    old: Mapping[str, Any], new: ExperimentConfig, *, allowed: tuple[str, ...], where: str
) -> list[Change]:
    """Return the changes that ``--allow-change`` announced, without the free ones.

    Raises:
        InputError: lists all changes that are refused or were not announced.
    """
    changed = changes(old, new)
    names = {name.replace("-", "_") for name in allowed}
    refused = [change for change in changed if change.on_resume == "refused"]
    unannounced = [
        change
        for change in changed
        if change.on_resume == "announced" and not {change.path, change.path.split(".")[-1]} & names
    ]
    problems = []
    if refused:
        problems.append(f"is another run's: {'; '.join(map(str, refused))} (use another --run-dir)")
    if unannounced:
        fields = " ".join(f"--allow-change {change.path}" for change in unannounced)
        listed = "; ".join(map(str, unannounced))
        problems.append(f"was begun with {listed}: to change that, add {fields}")
    if problems:
        raise InputError(f"{where} {'; '.join(problems)}")
    return [change for change in changed if change.on_resume == "announced"]


def split_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[Change]:
    """Return the splits whose hashes differ, given hashes by name; they are cut to 8 digits."""
    return [
        Change(f"splits.{name}", _short(old.get(name)), _short(new.get(name)), "free")
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _told(value: Any) -> str:
    return printable(json.dumps(value, ensure_ascii=False), most=80)


def _short(hash: str | None) -> str | None:
    return hash and hash[:8]


def _filled(old: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Return `old` with the defaults of the fields that it lacks."""
    old = old if isinstance(old, Mapping) else {}  # anything else differs in every field
    filled = dict(old)
    for name, field in model.model_fields.items():
        part = model_at(model, name)
        if part is not None and (name in old or not field.is_required()):
            filled[name] = _filled(old.get(name, {}), part)
        elif name not in old and not field.is_required():
            filled[name] = to_jsonable_python(field.get_default(call_default_factory=True))
    return filled


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, prefix: str
) -> Iterator[tuple[str, Any, Any]]:
    for key, after in new.items():
        before = old.get(key)
        if isinstance(after, Mapping) and isinstance(before, Mapping):
            yield from _differences(before, after, prefix=f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}", before, after
