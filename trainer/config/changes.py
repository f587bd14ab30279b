"""Finds the settings that changed between a run and its resumption, and refuses some."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from trainer.config.recipe import ExperimentConfig, OnResume, resume_class
from trainer.errors import InputError
from trainer.outside import printable


@dataclass(frozen=True)
class Change:
    """One field that differs."""

    path: str
    old: Any
    new: Any
    on_resume: OnResume

    def __str__(self) -> str:
        """``train.max_steps 100, not 200``: as it was, not as it is to be."""
        return f"{self.path} {_told(self.old)}, not {_told(self.new)}"

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {"field": self.path, "before": self.old, "after": self.new}


def changes(old: Mapping[str, Any], new: ExperimentConfig) -> list[Change]:
    """Fields of an experiment, as saved in JSON, that `new` sets otherwise.

    A field that was not there yet when `old` was saved had the effect of its default.
    """
    filled = _filled(old, ExperimentConfig)
    return [
        Change(path, before, after, resume_class(path))
        for path, before, after in _differences(filled, new.model_dump(mode="json"), prefix="")
    ]


def admit(
    old: Mapping[str, Any], new: ExperimentConfig, *, allowed: tuple[str, ...], where: str
) -> list[Change]:
    """The changes that were announced by ``--allow-change``; free ones are not mentioned.

    Raises:
        InputError: there are changes that are refused, or that nobody announced; it lists all.
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
    """The splits that are not what they were, of hashes by name; a hash is cut to 8 digits."""
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
    """`old` with the defaults of the fields that it lacks."""
    old = old if isinstance(old, Mapping) else {}  # what is no experiment differs in all
    filled = dict(old)
    for name, field in model.model_fields.items():
        part = field.annotation
        if name not in old and not field.is_required():
            filled[name] = to_jsonable_python(field.default)
        elif isinstance(part, type) and issubclass(part, BaseModel) and name in old:
            filled[name] = _filled(old[name], part)
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
