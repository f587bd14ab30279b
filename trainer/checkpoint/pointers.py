"""Names of checkpoints: their own, and the pointers ``latest`` and ``best`` beside them.

A name is believed no further than its form: nothing that it says leads out of the folder.
"""

import os
import re
from pathlib import Path

from trainer.files import write_atomically

#: Of a step.
MAX_DIGITS = 18
_NAME = re.compile(rf"step-[0-9]{{8,{MAX_DIGITS}}}")


def name_of(step: int) -> str:
    """Directory name of the checkpoint at `step`."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """Step of the checkpoint that has this directory name; None for any other name."""
    step = int(name.removeprefix("step-")) if _NAME.fullmatch(name) else None
    return step if step is not None and name_of(step) == name else None


def point(folder: Path, name: str, target: str) -> None:
    """Atomically let the pointer `name` (``latest``, ``best``) name a checkpoint.

    Raises:
        OSError: it does not; it may still name another.
    """
    write_atomically(folder / name, target + "\n")


def pointed(folder: Path, name: str) -> str | None:
    """Name of the checkpoint that the pointer `name` names; None where there is no such pointer.

    Nor is one that cannot be read, is a link, or names anything but a checkpoint of the folder.
    """
    try:
        # Without waiting for one who writes, should it be a pipe.
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            text = file.read(64).decode("ascii").strip()
    except (OSError, ValueError):
        return None
    return text if step_of(text) is not None else None
