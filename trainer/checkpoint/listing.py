"""Answers about a run's checkpoints: which there are, which are whole, which may go."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint.folder import MANIFEST, STATE, by_step, directory, flaw, verify
from trainer.checkpoint.pointers import name_of, pointed
from trainer.checkpoint.saved_state import read_state
from trainer.checkpoint.sealing import prunable
from trainer.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint of a run."""

    name: str
    step: int
    saved: float | None
    """Unix time at which its last file was written; None if the manifest is missing."""
    bytes: int
    of: tuple[str, ...]
    """The pointers that name it, ``latest`` and ``best``; ``kept`` if none does."""
    problem: str | None
    """Why it is not whole; None if it is, as far as was looked."""

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return asdict(self)


def checkpoints_of(run_dir: Path, *, hashed: bool = False) -> list[Found]:
    """Return a run's checkpoints, newest first.

    Args:
        run_dir: the run's directory.
        hashed: whether to read and hash every file, not only look at names and sizes.

    Raises:
        InputError: there is no such run, or the folder of its checkpoints cannot be read.
    """
    return [found_at(path, hashed=hashed) for path in _paths(run_dir)]


def found_at(path: Path, *, hashed: bool) -> Found:
    """Return what is known of the checkpoint at a path."""
    manifest = path / MANIFEST
    return Found(
        name=path.name,
        step=int(path.name.removeprefix("step-")),
        saved=manifest.lstat().st_mtime if manifest.is_file() else None,
        bytes=sum(file.lstat().st_size for file in path.iterdir()) if path.is_dir() else 0,
        of=tuple(_pointers(path)) or ("kept",),
        problem=_hashed_flaw(path) if hashed else flaw(path),
    )


def _paths(run_dir: Path) -> list[Path]:
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such folder")
    paths = list(by_step(directory(run_dir)).values())
    if not paths:
        raise InputError(f"{run_dir} has no checkpoint: is it the directory of a run?")
    return paths


def _pointers(path: Path) -> Iterator[str]:
    for pointer in ("latest", "best"):
        if pointed(path.parent, pointer) == path.name:
            yield pointer


def _hashed_flaw(path: Path) -> str | None:
    try:
        verify(path)
    except InputError as error:
        return str(error)
    return None


def removable(run_dir: Path, *, keep: int) -> list[Path]:
    """Return the checkpoints that may go so that the newest `keep` whole ones stay, newest first.

    Those that ``latest`` or ``best`` name stay, and what the newest whole one calls the best, which
    ``best`` may not name yet.

    Raises:
        InputError: see `checkpoints_of`.
    """
    newest = next((path for path in _paths(run_dir) if flaw(path) is None), None)
    best = None if newest is None else read_state(newest / STATE)["train"].get("best_step")
    spared = [] if best is None else [name_of(best)]
    return prunable(directory(run_dir), keep_last=keep, spared=spared)
