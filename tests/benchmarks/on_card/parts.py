"""The parts of `card.py`: each in a process of its own, a JSON line per row on standard output."""

import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from typing import NamedTuple

from on_card.rows import Ask, Part, Row


class Where(NamedTuple):
    """The place of a part's function; only its own module is imported."""

    module: str
    interprets: bool = False
    """Whether it launches kernels, which a CPU interprets."""


PARTS = {
    "environment": Where("environment"),
    "model": Where("checks", interprets=True),
    "captured": Where("same_run"),
    "resumed": Where("same_run"),
    "default_run": Where("default_run"),
    "prediction": Where("prediction"),
    "speed": Where("turns"),
    "waits": Where("checks"),
    "kernels": Where("steps"),
    "blocks": Where("kernels", interprets=True),
    "products": Where("kernels", interprets=True),
}


def rows_of(name: str, ask: Ask) -> Iterator[Row]:
    """Do a part."""
    where = PARTS[name]
    if ask.device == "cpu" and where.interprets:
        from triton_model import prepare

        prepare()
    warnings.simplefilter("ignore")
    part: Part = getattr(import_module(f"on_card.{where.module}"), name)
    yield from part(ask)


def main(name: str, told: str) -> None:
    """Print the rows of a part."""
    for found in rows_of(name, Ask(**json.loads(told))):
        print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
