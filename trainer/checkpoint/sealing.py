"""Changes to the folder of a run's checkpoints: sealing and pruning them, going back. Rank 0."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from trainer.checkpoint.folder import MANIFEST, STATE, by_step, seems_whole
from trainer.checkpoint.hashing import fingerprint
from trainer.checkpoint.pointers import name_of, point, pointed, step_of
from trainer.checkpoint.rollback import Rollback, write_rollback
from trainer.checkpoint.saved_state import FORMAT
from trainer.errors import InputError
from trainer.files import REPLACED, WRITING, remove, replace, sync_directory

#: The prefix of a checkpoint's name until it is sealed.
DRAFT = WRITING
# Prefixes of what killed processes leave; earlier versions gave the last to deleted checkpoints.
_LEFT = (DRAFT, REPLACED, ".pruned-")

log = logging.getLogger(__name__)


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
