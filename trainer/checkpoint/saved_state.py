"""Reading and checking `manifest.json` and `state.json` of a checkpoint."""

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from trainer.checkpoint.contents.index import INDEX
from trainer.checkpoint.state import TrainState
from trainer.config.deepspeed.keys import MAX_SCALE_POWER
from trainer.config.precision import Precision
from trainer.config.strict import checked
from trainer.errors import InputError
from trainer.outside import read_json

FORMAT = 3
#: The most bytes of either file: a state is mostly configurations, a manifest mostly file names.
_MAX_BYTES = 16 << 20

_Hash = Annotated[str, Field(max_length=64)]
_Count = Annotated[int, Field(ge=0, le=2**53)]
#: The form of a file's name in a manifest: the file lies in the checkpoint's folder itself.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_FIX = "it is corrupt: use another checkpoint"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class _FileEntry(_Strict):
    """Size and hash of a file."""

    bytes: _Count
    xxh3_128: _Hash


class _Manifest(_Strict):
    """The files of a checkpoint, by name."""

    format: Literal[1, 2, 3]
    files: dict[str, _FileEntry]


class _LossScaler(_Strict):
    """Counters of DeepSpeed's loss scaler."""

    cur_scale: float = Field(default=1.0, gt=0, le=2.0**MAX_SCALE_POWER)
    cur_iter: int = 0
    last_overflow_iter: int = 0
    cur_hysteresis: int = 0


class _Engine(_Strict):
    """Counters of the engine."""

    optimizer_step: _Count
    loss_scaler: _LossScaler = _LossScaler()


class _ImportOrigin(_Strict):
    """Origin of an imported model."""

    layout: str
    file: str


class _State(_Strict):
    """Fields that all readers of a state rely on; a reader of more fields checks them itself."""

    experiment: dict[str, Any]
    vocabulary: _Hash
    corpus: _Hash | None
    splits: dict[str, _Hash] | None = None
    precision: Precision
    imported: _ImportOrigin | None = None
    engine: _Engine | None = None


class _Exported(_Strict):
    """Description of a model that `txl export` writes beside vocabulary and weights."""

    version: Literal[1]
    experiment: dict[str, Any]
    vocabulary: _Hash
    precision: Literal["fp32"]
    weights: _FileEntry
    imported: _ImportOrigin | None = None


def _train_state() -> type[BaseModel]:
    """Return the schema of `TrainState`: all its fields but the memories, with their types."""
    sums = {"window_loss_sum": float | None, "window_extra": dict[str, float | None]}
    hints = get_type_hints(TrainState) | sums
    definitions: dict[str, Any] = {
        field.name: (hints[field.name], 0.0 if field.default is MISSING else field.default)
        for field in fields(TrainState)
        if field.name != "memories"
    }
    return create_model("TrainState", __base__=_Strict, **definitions)


def read_train(values: Any, *, where: str) -> dict[str, Any]:
    """Return the fields of `TrainState` in a saved state; unknown fields are left out.

    Raises:
        InputError: a field has a wrong type or value, or the step is missing.
    """
    train = checked(_train_state(), values, where=f"{where}: train", fix=_FIX)
    said = train.model_dump(exclude_unset=True)
    if not 0 <= said.get("step", -1) <= 2**53:
        raise InputError(f"{where}: train: step is missing, or no number of steps; {_FIX}")
    if (said.get("best_loss") is None) != (said.get("best_step") is None):
        raise InputError(f"{where}: train: best_loss and best_step go together; {_FIX}")
    return said


def read_state(path: Path) -> dict[str, Any]:
    """Read `state.json`.

    Raises:
        InputError: the file cannot be read, or a field that all readers rely on is missing or
            wrong.
    """
    values, where = _read(path), str(path)
    state = checked(_State, values, where=where, fix=_FIX)
    said = state.model_dump(include={"imported", "engine"}, exclude_unset=True)
    return {**values, **said, "train": read_train(values.get("train"), where=where)}


def read_exported(values: Any, *, where: str) -> dict[str, Any]:
    """Read the `config.json` of an exported model.

    Raises:
        InputError: the export is of another version, or a field is wrong.
    """
    fix = "export the model again with this version"
    exported = checked(_Exported, values, where=where, fix=fix)
    said = exported.model_dump(include={"imported", "weights"}, exclude_unset=True)
    return {**values, **said, "train": read_train(values.get("train"), where=where)}


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Return the size and hash of every file that `manifest.json` lists.

    Raises:
        InputError: the file cannot be read, is of a newer format, or is no manifest.
    """
    values = _read(path)
    version = values.get("format") if isinstance(values, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise InputError(
            f"{path} has format {version}, newer than the {FORMAT} known here: update txl-trainer"
        )
    manifest = checked(_Manifest, values, where=str(path), fix=_FIX)
    if not all(map(_NAME.fullmatch, manifest.files)):
        raise InputError(f"{path} is corrupt, it lists no files of a checkpoint: use another one")
    if manifest.format > 2 and INDEX not in manifest.files:
        raise InputError(f"{path} does not list {INDEX}, so it is corrupt: use another checkpoint")
    return {name: entry.model_dump() for name, entry in manifest.files.items()}


def _read(path: Path) -> Any:
    try:
        return read_json(path, most_bytes=_MAX_BYTES)
    except InputError as error:
        raise InputError(f"{error}: {_FIX}") from None
