"""Names of checkpoints, and the pointers ``latest`` and ``best`` beside them.

A pointer counts only if it has the form of a checkpoint's name, so none leads out of the folder.
"""

import os
import re
from pathlib import Path

from trainer.files import write_atomically

#: The most digits of a step in a name.
MAX_DIGITS = 18
_NAME = re.compile(rf"step-[0-9]{{8,{MAX_DIGITS}}}")


def name_of(step: int) -> str:
    """Return the directory name of the checkpoint at `step`."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """Return the step of the checkpoint that has this directory name; None for other names."""
    step = int(name.removeprefix("step-")) if _NAME.fullmatch(name) else None
    return step if step is not None and name_of(step) == name else None


def point(folder: Path, name: str, target: str) -> None:
    """Make the pointer `name` (``latest``, ``best``) name the checkpoint `target`, atomically.

    Raises:
        OSError: the pointer could not be written; it may still name another checkpoint.
    """
    write_atomically(folder / name, target + "\n")


def pointed(folder: Path, name: str) -> str | None:
    """Return the name of the checkpoint that the pointer `name` names; None without a pointer.

    A pointer that cannot be read, is a link, or does not name a checkpoint counts as none.
    """
    try:
        # If the pointer is a pipe, do not wait for a process that writes to it.
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            text = file.read(64).decode("ascii").strip()
    except (OSError, ValueError):
        return None
    return text if step_of(text) is not None else None
