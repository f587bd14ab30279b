"""Checkpoints on disk: sealed, pointed at, found, verified before they are believed, pruned.

Called on rank 0. `trainer.checkpoint` says what is in them.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from trainer.errors import InputError
from trainer.files import sync_directory, write_atomically

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
#: What the name of a checkpoint begins with until it is sealed.
DRAFT = ".writing-"


@dataclass(frozen=True, kw_only=True)
class Newest:
    """The newest whole checkpoint of a folder, if there is one."""

    path: Path | None
    state: dict[str, Any]
    """What it says of its run."""
    skipped: list[str]
    """Newer ones that are not whole: which, and why."""


def directory(run_dir: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run_dir / "checkpoints"


def name_of(step: int) -> str:
    """Directory name of the checkpoint at `step`."""
    return f"step-{step:08d}"


def draft_of(folder: Path, step: int) -> Path:
    """Where the checkpoint at `step` is written before it is sealed."""
    return folder / f"{DRAFT}{name_of(step)}"


def begin(draft: Path) -> None:
    """Make an empty draft, and remove what a crash left of others."""
    for pattern in (f"{DRAFT}*", ".replaced-*"):
        for left in draft.parent.glob(pattern):
            shutil.rmtree(left)
    draft.mkdir(parents=True)


def seal(draft: Path, final: Path, *, state: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """Make a whole draft a checkpoint, and point ``latest`` at it.

    Args:
        draft: holds `files`, synced.
        final: one that is there is replaced.
        state: JSON values, written as a file of their own.
        files: per file, what `fingerprint` gave.
    """
    (draft / STATE).write_text(json.dumps(state, indent=1))
    listed = {**files, STATE: fingerprint(draft / STATE, sync=True)}
    (draft / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": listed}, indent=1))
    fingerprint(draft / MANIFEST, sync=True)
    sync_directory(draft)
    replaced = final.with_name(f".replaced-{final.name}")
    if final.exists():
        final.rename(replaced)
    draft.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)
    sync_directory(final.parent)
    point(final.parent, "latest", final.name)


def point(folder: Path, name: str, target: str) -> None:
    """Atomically let the pointer `name` (``latest``, ``best``) name a checkpoint."""
    write_atomically(folder / name, target + "\n")


def prune(folder: Path, *, keep_last: int) -> None:
    """Delete all but the newest `keep_last` checkpoints and those pointed at."""
    pointed = {_pointed(folder, name) for name in ("latest", "best")}
    for path in _all(folder)[keep_last:]:
        if path.name not in pointed:
            shutil.rmtree(path, ignore_errors=True)


def verify(path: Path) -> dict[str, Any]:
    """Check every file against the manifest and return the checkpoint's state.

    Raises:
        InputError: what is missing, differs, or should not be there.
    """
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise InputError(f"{path}: no checkpoint here ({MANIFEST} is missing)")
    listed = _read_manifest(manifest)
    for name, expected in listed.items():
        file = path / name
        if not file.is_file():
            raise InputError(f"{file} is missing: use another checkpoint")
        try:
            found = fingerprint(file)
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from None
        if found != expected:
            raise InputError(
                f"{file} is corrupt (size or hash differ from the manifest's): "
                f"use another checkpoint"
            )
    for file in sorted(path.iterdir()):
        if file.name not in {*listed, MANIFEST} and not file.name.startswith("."):
            raise InputError(f"{file} is not in the manifest: remove it, or use another checkpoint")
    state: dict[str, Any] = json.loads((path / STATE).read_bytes())
    return state


def _read_manifest(manifest: Path) -> dict[str, Any]:
    try:
        values = json.loads(manifest.read_bytes())
        version, listed = int(values["format"]), dict(values["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{manifest} is corrupt: use another checkpoint") from None
    if version > FORMAT:
        raise InputError(
            f"{manifest} has format {version}, newer than the {FORMAT} known here: "
            f"update txl-trainer"
        )
    if version != FORMAT or STATE not in listed or any(Path(name).name != name for name in listed):
        raise InputError(f"{manifest} is corrupt: use another checkpoint")
    return listed


def resolve(run_dir: Path, which: str) -> Path:
    """Path of the checkpoint that `which` names: best, last, a step, or a path.

    A run that never validated has no best; its last one takes the place.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    folder = directory(run_dir)
    if which in ("best", "last"):
        best = _pointed(folder, "best") if which == "best" else None
        target = best or _pointed(folder, "latest")
        found = folder / target if target else None
    elif which.isdigit():
        found = folder / name_of(int(which))
    else:
        found = Path(which)
    if found is None or not found.is_dir():
        there = ", ".join(path.name for path in _all(folder)) or "none"
        raise InputError(f"{run_dir}: no checkpoint {which!r}; there are: {there}")
    return found


def newest_whole(folder: Path, *, before_step: int | None = None) -> Newest:
    """Find the newest checkpoint that verifies, of those saved before `before_step`."""
    skipped: list[str] = []
    for path in _all(folder):
        if before_step is not None and path.name >= name_of(before_step):
            continue
        try:
            return Newest(path=path, state=verify(path), skipped=skipped)
        except InputError as error:
            skipped.append(str(error))
    return Newest(path=None, state={}, skipped=skipped)


def fingerprint(path: Path, *, sync: bool = False) -> dict[str, Any]:
    """Size and hash of a file, which is first synced to disk where it was just written."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        while block := file.read(1 << 22):
            digest.update(block)
    return {"bytes": path.stat().st_size, "xxh3_128": digest.hexdigest()}


def _all(folder: Path) -> list[Path]:
    """Checkpoints under their final name, newest first; what else is there is let alone."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8}", path.name)]
    return sorted(found, reverse=True)


def _pointed(folder: Path, name: str) -> str | None:
    path = folder / name
    return path.read_text().strip() if path.is_file() else None
