"""What the tests of DeepSpeed files share."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from trainer.config.deepspeed import keys
from trainer.config.deepspeed.checks import REFUSED
from trainer.config.deepspeed.file import resolve
from trainer.config.recipe import ExperimentConfig
from trainer.config.strict import model_at
from trainer.errors import InputError


def changed(experiment: ExperimentConfig, part: str, **values: Any) -> ExperimentConfig:
    inner = getattr(experiment, part).model_copy(update=values)
    return experiment.model_copy(update={part: inner})


def refusal(raw: dict[str, Any], experiment: ExperimentConfig, *, world_size: int = 1) -> str:
    with pytest.raises(InputError) as caught:
        resolve(raw, experiment, world_size=world_size, where="my.json")
    assert str(caught.value).startswith("my.json: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def nested(path: str, value: Any) -> dict[str, Any]:
    first, *rest = path.split(".")
    for key in reversed(rest):
        value = {key: value}
    return {first: value}


def parts_of(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    assert match, text
    return match.groups()


def blocks(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    yield prefix, model
    for name in model.model_fields:
        inner = model_at(model, name)
        if inner:
            yield from blocks(inner, f"{prefix}{name}.")


BLOCKS = dict(blocks(keys.DsFile))


def keys_spoken_of(block: str) -> set[str]:
    """Return keys of a block (its path with a final dot) that are taken, or refused by name."""
    refused = {path.removeprefix(block) for path in REFUSED if path.startswith(block)}
    return set(BLOCKS[block].model_fields) | {key for key in refused if "." not in key}
