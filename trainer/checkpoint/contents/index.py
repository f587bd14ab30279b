"""The index of a checkpoint: each parameter's shape, and where its parts lie.

``index.json`` holds for a parameter ``{"shape": [3, 2], "parts": [[0, 0, 4], [1, 4, 2]]}``.
A part is a rank, whose files hold the part, the place of its first element in the flat parameter,
and its number of elements. Parts are in order, and together are the whole parameter. A rank has at
most one part of a parameter.
"""

import json
import math
from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from trainer.checkpoint.contents.tensor_files import open_tensors
from trainer.checkpoint.migrations import whole_parts
from trainer.config.strict import checked
from trainer.errors import InputError
from trainer.outside import read_json, shortened

INDEX = "index.json"
#: The most bytes of an index: a part takes about 30.
_MAX_BYTES = 1 << 28
_FIX = "it is corrupt: use another checkpoint"


class Part(NamedTuple):
    """A part of a flat parameter, and the rank whose files hold it."""

    rank: int
    begin: int
    numel: int


class Entry(NamedTuple):
    """A parameter's shape and its parts, in order."""

    shape: tuple[int, ...]
    parts: tuple[Part, ...]


Index = dict[str, Entry]
"""An entry by parameter name."""

_Count = Annotated[int, Field(ge=0, le=2**53)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Entry(_Strict):
    """Shape and parts of a parameter."""

    shape: Annotated[list[_Count], Field(max_length=64)]
    parts: list[tuple[_Count, _Count, _Count]]


class _Index(_Strict):
    """The parameters of a checkpoint, by name."""

    parameters: dict[str, _Entry]


def weights_file(rank: int) -> str:
    """Return the name of the file of a rank's weights."""
    return f"weights-{rank:05d}.safetensors"


def optimizer_file(rank: int) -> str:
    """Return the name of the file of a rank's moments."""
    return f"optimizer-{rank:05d}.safetensors"


def index_of(
    shapes: Mapping[str, tuple[int, ...]], parts: Mapping[int, Iterable[tuple[str, int, int]]]
) -> Index:
    """Return the index of parts that ranks have written.

    Args:
        shapes: the shape of every parameter by name.
        parts: per rank, each part's name, first element and number of elements.
    """
    found: dict[str, list[Part]] = {name: [] for name in shapes}
    for rank, written in parts.items():
        for name, begin, numel in written:
            found[name].append(Part(rank, begin, numel))
    return {
        name: Entry(shapes[name], tuple(sorted(places, key=lambda part: part.begin)))
        for name, places in found.items()
    }


def index_of_whole(shapes: Mapping[str, tuple[int, ...]]) -> Index:
    """Return the index of parameters that are whole in the file of rank 0."""
    return index_of(shapes, {0: whole_parts(shapes)})


def write_index(index: Index, folder: Path) -> None:
    """Write the index of the checkpoint in `folder`.

    Raises:
        OSError: the disk is full or gone.
    """
    values = {name: {"shape": entry.shape, "parts": entry.parts} for name, entry in index.items()}
    text = json.dumps({"parameters": values}, separators=(",", ":"))
    (folder / INDEX).write_text(text)


def read_index(path: Path) -> Index:
    """Return the index of a verified checkpoint; that of an older format is made from its files.

    Raises:
        InputError: there is no sound index.
    """
    index = _read(path / INDEX) if (path / INDEX).is_file() else _of_older(path)
    for name, entry in index.items():
        begins = [part.begin for part in entry.parts]
        ends = list(accumulate(part.numel for part in entry.parts))
        n_elements, n_ranks = (ends or [0])[-1], len({part.rank for part in entry.parts})
        if (
            begins != [0, *ends][:-1]
            or math.prod(entry.shape) != n_elements
            or n_ranks != len(entry.parts)
        ):
            raise InputError(
                f"{path / INDEX}: the parts of {shortened(name)} are not the whole; {_FIX}"
            )
    return index


def _read(file: Path) -> Index:
    try:
        values = read_json(file, most_bytes=_MAX_BYTES)
    except InputError as error:
        raise InputError(f"{error}: {_FIX}") from None
    said = checked(_Index, values, where=str(file), fix=_FIX).parameters
    return {
        name: Entry(tuple(entry.shape), tuple(Part(*part) for part in entry.parts))
        for name, entry in said.items()
    }


def _of_older(path: Path) -> Index:
    """Return the index of a checkpoint of format 1 or 2, by the headers of its files."""
    shapes: dict[str, tuple[int, ...]] = {}
    parts = {}
    for file in sorted(path.glob("weights-*.safetensors")):
        rank = file.stem.removeprefix("weights-")
        if file.name != weights_file(int(rank) if rank.isdecimal() else -1):
            raise InputError(f"{file} is no file of a rank's weights: use another checkpoint")
        with open_tensors(file) as tensors:
            found = {
                name: tuple(tensors.get_slice(name).get_shape())
                for name in tensors.keys()  # noqa: SIM118
            }
        shapes |= found
        parts[int(rank)] = whole_parts(found)
    return index_of(shapes, parts)
