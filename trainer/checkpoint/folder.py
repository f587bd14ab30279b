"""The folder of a run's checkpoints: finding and verifying them. Rank 0.

`trainer.checkpoint.contents.tensors` says what a checkpoint holds. Names in the folder are not
trusted: a pointer can only name a checkpoint beside it, no link is followed out of the folder, and
files whose names do not have the form of ours are left alone. `trainer.checkpoint.sealing` changes
the folder.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint.hashing import Fingerprints, fingerprints
from trainer.checkpoint.pointers import MAX_DIGITS, name_of, pointed, step_of
from trainer.checkpoint.rollback import Rollback, read_rollback
from trainer.checkpoint.saved_state import read_manifest, read_state
from trainer.errors import InputError, first_few
from trainer.shell import typed_path

MANIFEST = "manifest.json"
STATE = "state.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Newest:
    """The newest whole checkpoint of a folder, if there is one."""

    path: Path | None
    state: dict[str, Any]
    """The checkpoint's state of its run."""
    skipped: list[str]
    """Newer checkpoints that are not whole or not trusted, each with the reason."""
    rollback: Rollback | None = None
    """The rollback that came after the checkpoint was saved, if one did."""


def directory(run_dir: Path) -> Path:
    """Return the folder in which a run keeps its checkpoints."""
    return run_dir / "checkpoints"


def verify(path: Path, *, hashed: Fingerprints = fingerprints) -> dict[str, Any]:
    """Check every file against the manifest, and return the checkpoint's state.

    Args:
        path: the checkpoint's folder.
        hashed: returns size and hash of its files.

    Raises:
        InputError: a file is missing, differs or should not be there; or the checkpoint is a link,
            or of another step than its name says.
    """
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise InputError(f"{path}: no checkpoint here ({MANIFEST} is missing)")
    listed = _read_manifest(manifest)
    for part in (path, manifest, *(path / name for name in listed)):
        if part.is_symlink():
            raise InputError(
                f"{part} is a link to {os.readlink(part)}, which no part of a checkpoint is: "
                "use another checkpoint, or name the one it links to"
            )
    for name in listed:
        if not (path / name).is_file():
            raise InputError(f"{path / name} is missing: use another checkpoint")
    found = hashed(path, list(listed))
    for name, expected in listed.items():
        if isinstance(found[name], str):
            raise InputError(f"{path / name} cannot be read: {found[name]}")
        if found[name] != expected:
            raise InputError(
                f"{path / name} is corrupt (size or hash differ from the manifest's): "
                f"use another checkpoint"
            )
    for file in sorted(path.iterdir()):
        if file.name not in {*listed, MANIFEST} and not file.name.startswith("."):
            raise InputError(f"{file} is not in the manifest: remove it, or use another checkpoint")
    return _read_state(path)


def seems_whole(path: Path) -> bool:
    """Return whether a checkpoint's files have the right names and sizes; read no tensors."""
    return flaw(path) is None


def flaw(path: Path) -> str | None:
    """Return why a checkpoint does not seem whole; None if it does. Read no tensors."""
    if path.is_symlink():
        return f"{path} is a link to {os.readlink(path)}"
    try:
        listed = _read_manifest(path / MANIFEST)
        sizes = {name: (path / name).lstat().st_size for name in listed}
        _read_state(path)
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    wrong = [name for name, entry in listed.items() if entry["bytes"] != sizes[name]]
    return f"{path / wrong[0]} has another size than the manifest says" if wrong else None


def _read_state(path: Path) -> dict[str, Any]:
    """Return a checkpoint's state of its run.

    Raises:
        InputError: there is no sound state, or it is of another step than the checkpoint's name.
    """
    state = read_state(path / STATE)
    step = state["train"]["step"]
    if step_of(path.name) not in (None, step):
        raise InputError(f"{path} is the checkpoint of step {step}: give it its own name back")
    return state


def _read_manifest(manifest: Path) -> dict[str, Any]:
    listed = read_manifest(manifest)
    if STATE not in listed:
        raise InputError(f"{manifest} does not list {STATE}, so it is corrupt: use another one")
    return listed


def resolve(run_dir: Path, which: str) -> Path:
    """Return the path of the checkpoint that `which` names: best, last, a step, or a path.

    In a run that never validated, best means the last checkpoint. Without a pointer, the last
    checkpoint is the newest that seems whole.

    Raises:
        InputError: there is no such checkpoint; the message lists those that exist.
    """
    folder = directory(run_dir)
    found: Path | None
    if which in ("best", "last"):
        best = pointed(folder, "best") if which == "best" else None
        if best is None and which == "best" and os.path.lexists(folder / "best"):
            log.warning("%s names no checkpoint here: taking the last one", folder / "best")
        found = folder / best if best else _last(folder)
    elif which.isdecimal() and len(which) <= MAX_DIGITS:
        found = folder / name_of(int(which))
    else:
        found = typed_path(which)
    if found is None or not os.path.isdir(found):
        names = [path.name for path in by_step(folder).values()]
        there = first_few(names, separator=", ") or "none"
        raise InputError(f"{run_dir}: no checkpoint {which!r}; there are: {there}")
    return found


def _last(folder: Path) -> Path | None:
    latest = pointed(folder, "latest")
    if latest is not None and (folder / latest).is_dir():
        return folder / latest
    return next(filter(seems_whole, by_step(folder).values()), None)


def newest_whole(
    folder: Path, hashed: Fingerprints = fingerprints, *, before_step: int | None = None
) -> Newest:
    """Return the newest checkpoint saved before `before_step` that passes `verify`.

    A checkpoint that a rollback went back from is passed over.

    Args:
        folder: the folder of a run's checkpoints.
        hashed: returns size and hash of a checkpoint's files.
        before_step: None takes the newest of all.
    """
    skipped: list[str] = []
    last = read_rollback(folder)
    for step, path in by_step(folder).items():
        if before_step is not None and step >= before_step:
            continue
        try:
            state = verify(path, hashed=hashed)
        except InputError as error:
            skipped.append(str(error))
            continue
        if last is not None and last.distrusts(state["train"]):
            skipped.append(f"{path} was saved before the run went back to step {last.step}")
            continue
        later = last if last is not None and last.is_after(state["train"]) else None
        return Newest(path=path, state=state, skipped=skipped, rollback=later)
    return Newest(path=None, state={}, skipped=skipped)


def by_step(folder: Path) -> dict[int, Path]:
    """Return all paths that have the name of a checkpoint by step, newest first.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from None
    found = {step: path for path in paths if (step := step_of(path.name)) is not None}
    return dict(sorted(found.items(), reverse=True))
