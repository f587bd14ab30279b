"""The lines of `metrics.jsonl`: what a record may hold, and reading a file's records."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from trainer.config.strict import describe
from trainer.errors import InputError
from trainer.outside import open_file, printable
from trainer.track.measure import Count, Measure, Text

METRICS_FILE = "metrics.jsonl"
SCHEMA = 1
#: The most bytes of a record's line; a longer line is no record.
MAX_LINE_BYTES = 4 << 20
#: A larger schema number is no newer version, but part of a broken line.
_PLAUSIBLE_SCHEMA = 1000

RecordKind = Literal["train", "valid", "sample", "event"]
Record = dict[str, Any]

_log = logging.getLogger(__name__)


class _AnyRecord(BaseModel):
    """The fields that every record has; all other fields are the record's values."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    schema_: Annotated[int, Field(alias="schema", ge=1, le=SCHEMA)]
    kind: RecordKind
    attempt: Annotated[int, Field(ge=1, lt=1 << 31)]
    step: Count
    update: Count
    tokens: Count
    time: Annotated[float, Field(ge=0, lt=1e11)]


class _Numbers(_AnyRecord):
    """Metrics by name; None means missing, or not finite."""

    __pydantic_extra__: dict[str, float | None] = Field(init=False)


class _Validation(_Numbers):
    """Metrics of a validation, and what they measure."""

    of: Measure | None = None


class _Sample(_AnyRecord):
    """A sampled text, and how it was made."""

    __pydantic_extra__: dict[str, str | float | None] = Field(init=False)


class _Event(_AnyRecord):
    """An event, with any details."""

    event: Text


_MODELS: dict[object, type[_AnyRecord]] = {
    "train": _Numbers,
    "valid": _Validation,
    "sample": _Sample,
    "event": _Event,
}


def _warn(message: str) -> None:
    _log.warning("%s", message)


def whole_records(path: Path, *, tell: Callable[[str], None] = _warn) -> Iterator[Record]:
    """Yield the records of a file in order; at the end tell the number of other lines.

    A last line without a line end is still being written, and is not counted.

    Args:
        path: the file.
        tell: called with a message if lines were passed over; by default it is logged.

    Raises:
        InputError: a newer version of the trainer wrote the file, or it is none that can be read.
    """
    n_broken, first = 0, ""
    try:
        opened = open_file(path)
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
    with opened as file:
        for number, line in enumerate(_lines(file), start=1):
            try:
                yield parse_record(line)
            except InputError as error:
                raise InputError(f"{path} line {number} {error}") from None
            except ValueError as error:
                if line.strip() and line.endswith(b"\n"):
                    n_broken += 1
                    first = first or f"line {number}, {printable(error, most=200)}"
    if n_broken:
        what = "1 line is" if n_broken == 1 else f"{n_broken:,} lines are"
        tell(f"{path}: {what} torn or no record, passed over; the first: {first}")


def parse_record(line: bytes) -> Record:
    """Return the record in a line.

    Raises:
        ValueError: the line is no record; the message says why.
        InputError: the line is a record of a newer version.
    """
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES:,} bytes")
    values = _parse(line)
    if not isinstance(values, dict):
        raise ValueError("not an object")
    schema = values.get("schema")
    if type(schema) is int and SCHEMA < schema < _PLAUSIBLE_SCHEMA:
        raise InputError(
            f"has schema {schema}, newer than the {SCHEMA} known here: update txl-trainer"
        )
    model = _MODELS.get(values["kind"]) if isinstance(values.get("kind"), str) else None
    if model is None:
        raise ValueError("not of a known kind")
    try:
        model.model_validate(values)
    except ValidationError as error:
        raise ValueError(describe(error, model)[0]) from None
    return values


def _parse(line: bytes) -> Any:
    try:
        return from_json(line)
    except ValueError:
        if b"\\u" not in line:
            raise
        try:  # JSON allows a lone surrogate, which stands for a byte that was no UTF-8
            return json.loads(line.decode())
        except RecursionError:
            raise ValueError("nested too deeply") from None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines with their ends; a line that is too long is cut."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        part = line
        while len(part) > MAX_LINE_BYTES and not part.endswith(b"\n"):
            part = file.readline(MAX_LINE_BYTES + 1)
        yield line if part is line else line[:MAX_LINE_BYTES] + b"\n\n"
