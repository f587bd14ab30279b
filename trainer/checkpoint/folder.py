"""The folder of a run's checkpoints: sealing, finding, verifying and pruning them. Rank 0.

`trainer.checkpoint.tensors` says what a checkpoint holds. Names in the folder are not trusted: a
pointer can only name a checkpoint beside it, no link is followed out of the folder, and files whose
names do not have the form of ours are left alone.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trainer.checkpoint.hashing import Fingerprints, fingerprint, fingerprints
from trainer.checkpoint.pointers import MAX_DIGITS, name_of, point, pointed, step_of
from trainer.checkpoint.rollback import Rollback, read_rollback, write_rollback
from trainer.checkpoint.saved_state import FORMAT, read_manifest, read_state
from trainer.errors import InputError, first_few
from trainer.files import REPLACED, WRITING, remove, replace, sync_directory
from trainer.shell import typed_path

MANIFEST = "manifest.json"
STATE = "state.json"
#: The prefix of a checkpoint's name until it is sealed.
DRAFT = WRITING
# Prefixes of what killed processes leave; earlier versions gave the last to deleted checkpoints.
_LEFT = (DRAFT, REPLACED, ".pruned-")

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


def draft_of(folder: Path, step: int) -> Path:
    """Return the folder in which the checkpoint at `step` is written before it is sealed."""
    return folder / f"{DRAFT}{name_of(step)}"


def begin(draft: Path) -> None:
    """Make an empty draft, and remove drafts that a crash left.

    Raises:
        OSError: the draft cannot be made, or something that is no draft has its name.
    """
    draft.parent.mkdir(parents=True, exist_ok=True)
    for path in draft.parent.iterdir():
        for kind in _LEFT:
            if path.name.startswith(kind) and step_of(path.name.removeprefix(kind)) is not None:
                shutil.rmtree(path, ignore_errors=True)  # leaves files and links alone
    draft.mkdir()


def seal(draft: Path, final: Path, *, state: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """Make a whole draft a checkpoint, and point ``latest`` at it.

    Args:
        draft: the folder that holds `files`, synced.
        final: the checkpoint's path; a checkpoint that exists there is replaced.
        state: JSON values, written to a file of their own.
        files: the `fingerprint` of each file by name, the index among them.

    Raises:
        OSError: the draft did not become a checkpoint; later errors are only logged.
    """
    (draft / STATE).write_text(json.dumps(state, indent=1))
    listed = {**files, STATE: fingerprint(draft / STATE, sync=True)}
    (draft / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": listed}, indent=1))
    fingerprint(draft / MANIFEST, sync=True)
    sync_directory(draft)
    replace(draft, final)
    _or_log(lambda: sync_directory(final.parent), f"{final.name} may not survive a power cut")
    _or_log(lambda: point(final.parent, "latest", final.name), "the pointer `latest` was not moved")
    if pointed(final.parent, "latest") != final.name:  # no pointer is better than an old one
        with suppress(OSError):
            (final.parent / "latest").unlink()


def prune(folder: Path, *, keep_last: int, spared: Iterable[str] = ()) -> None:
    """Delete all but the newest `keep_last` whole checkpoints, the `spared` and those pointed at.

    Checkpoints that are not whole do not count, and are deleted with whole ones of their age. A
    folder without a manifest was never a checkpoint, and stays. Failures to delete are logged.
    """

    def delete_old() -> None:
        for path in prunable(folder, keep_last=keep_last, spared=spared):
            _or_log(partial(remove, path), f"{path.name} was not deleted")

    _or_log(delete_old, "old checkpoints were not deleted")


def go_back(folder: Path, rollback: Rollback) -> None:
    """Record a rollback, delete the checkpoints that it distrusts, and mend the pointers.

    What fails is logged. If the record alone fails, and the others are gone, a later start goes
    through the same steps to the same rollback again.
    """

    def forget_newer() -> None:
        for step, path in by_step(folder).items():
            if step > rollback.step and not path.is_symlink() and (path / MANIFEST).is_file():
                _or_log(partial(remove, path), f"{path.name} was not deleted")
        point(folder, "latest", name_of(rollback.step))
        if (best := pointed(folder, "best")) is not None and not (folder / best).is_dir():
            (folder / "best").unlink()

    def record() -> None:
        write_rollback(folder, rollback)

    try:
        record()
    except OSError:  # on a full disk there is place after the deletion
        _or_log(forget_newer, "newer checkpoints were not deleted")
        _or_log(record, "the rollback is forgotten if the run ends before its next checkpoint")
    else:
        _or_log(forget_newer, "newer checkpoints were not deleted")


def prunable(folder: Path, *, keep_last: int, spared: Iterable[str] = ()) -> list[Path]:
    """Return what `prune` deletes, newest first.

    Raises:
        InputError: the folder cannot be read.
    """
    kept = {*spared, pointed(folder, "latest"), pointed(folder, "best")}
    n_newer, found = 0, []
    for path in by_step(folder).values():
        if n_newer < keep_last:
            n_newer += seems_whole(path)
        elif path.name not in kept and not path.is_symlink() and (path / MANIFEST).is_file():
            found.append(path)
    return found


def _or_log(action: Callable[[], None], told: str) -> None:
    """Do something on which no checkpoint depends, and log its failure."""
    try:
        action()
    except (OSError, InputError) as error:
        log.error("%s: %s", told, error)


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
