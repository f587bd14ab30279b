"""Reading checkpoints of a run that may still train, and so may delete them meanwhile."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trainer.checkpoint.folder import resolve
from trainer.errors import InputError

T = TypeVar("T")

#: Names that come to mean other checkpoints as the run goes on.
MOVING = ("best", "last")
#: How many checkpoints may be deleted while they are read before the reader gives up.
MOST_DELETED = 20


def reading(run_dir: Path, which: str, read: Callable[[Path], T]) -> T:
    """Return the result of `read` for the checkpoint that `which` names: see `resolve`.

    If the checkpoint is deleted or replaced while it is read, ``best`` and ``last`` name a newer
    one by then, which is read instead.

    Raises:
        InputError: there is no such checkpoint, `read` refuses it, or it was deleted meanwhile.
    """
    for _ in range(MOST_DELETED):
        path = resolve(run_dir, which)
        before, problem = _identity(path), None
        try:
            result = read(path)
        except (InputError, OSError) as error:
            problem = error
        if _identity(path) != before:
            if which in MOVING:
                continue
            raise InputError(
                f"{path} was deleted or replaced while it was read: name another, or `last`"
            )
        if problem is not None:
            raise problem
        return result
    raise InputError(
        f"{run_dir} deletes its checkpoints faster than they can be read: stop it, or let it keep "
        f"more of them with --checkpoint.keep-last"
    )


def _identity(path: Path) -> tuple[int, int] | None:
    """Return numbers that differ for a new folder of the same name; None without a folder."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
