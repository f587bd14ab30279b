"""The losses of single streams, in `RUN/streams/`: filed when something happened to a run.

A file holds the last steps up to what happened, for which it is called: one array of NumPy, a row
per step and stream.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.errors import InputError
from trainer.files import replace
from trainer.outside import open_file

FOLDER = "streams"
#: The fields of a row.
FIELDS = np.dtype(
    [
        ("attempt", "<i4"),
        ("step", "<i8"),  # counted from 1
        ("stream", "<i8"),
        ("nats", "<f4"),  # the sum over the stream's targets in this step
    ]
)
Losses = npt.NDArray[Any]

#: The most files that are kept, the newest.
_MOST_FILES = 16
#: The most bytes of a file that is read.
_MOST_BYTES = 1 << 30


def write_losses(run_dir: Path, losses: Losses, *, step: int) -> Path:
    """Write losses, whole or not at all, and delete old files; rank 0 only.

    Raises:
        OSError: the file cannot be written.
    """
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step:08d}.npy"
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with draft.open("wb") as file:
            np.save(file, losses.astype(FIELDS, copy=False), allow_pickle=False)
        replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    for old in _files(run_dir)[_MOST_FILES:]:
        old.unlink()
    return path


def read_losses(run_dir: Path, *, attempt: int, step: int) -> dict[int, float]:
    """Return the nats of each stream in a step of an attempt; empty if they were not filed.

    Raises:
        InputError: a file is broken.
    """
    for losses in map(_read, _files(run_dir)):
        rows = losses[(losses["attempt"] == attempt) & (losses["step"] == step)]
        if len(rows):
            return {int(row["stream"]): float(row["nats"]) for row in rows}
    return {}


def filed_steps(run_dir: Path) -> Iterator[tuple[int, int]]:
    """Yield attempt and step of all losses that were filed, the newest file's first."""
    for losses in map(_read, _files(run_dir)):
        yield from sorted(
            set(zip(losses["attempt"].tolist(), losses["step"].tolist(), strict=True))
        )


def _files(run_dir: Path) -> list[Path]:
    """Return the files, the newest first."""
    files = list((run_dir / FOLDER).glob("step-*.npy"))
    return sorted(files, key=lambda path: (path.lstat().st_mtime_ns, path.name), reverse=True)


def _read(path: Path) -> Losses:
    fix = "remove it"
    try:
        with open_file(path) as file:
            if path.stat().st_size > _MOST_BYTES:
                raise InputError(f"{path}: too large for losses of streams: {fix}")
            losses: Losses = np.load(file, allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # NumPy evaluates the header, which may fail in any way
        raise InputError(f"{path}: no losses of streams: {error}: {fix}") from None
    if not isinstance(losses, np.ndarray) or losses.dtype != FIELDS or losses.ndim != 1:
        raise InputError(f"{path}: no losses of streams: {fix}")
    return losses
