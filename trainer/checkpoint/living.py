"""Reading checkpoints of a run that may be in training, which deletes old ones meanwhile."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trainer.checkpoint.folder import resolve
from trainer.errors import InputError

T = TypeVar("T")

#: Names that mean another checkpoint as the run goes on.
MOVING = ("best", "last")
#: Times that a checkpoint may be deleted while it is read, before a reader is told of it.
MOST_DELETED = 20


def reading(run_dir: Path, which: str, read: Callable[[Path], T]) -> T:
    """Return what `read` makes of the checkpoint that `which` names: see `resolve`.

    Where it was deleted or replaced meanwhile, ``best`` and ``last`` name a newer one by now, which
    is read instead.

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
    """Return numbers that tell a folder from another of its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
