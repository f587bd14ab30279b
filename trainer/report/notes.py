"""Notes on what of a run cannot be read, while the rest is shown."""

from collections.abc import Callable
from typing import TypeVar

from trainer.errors import InputError

_Read = TypeVar("_Read")


def noting(notes: list[str], read: Callable[[], _Read]) -> _Read | None:
    """Return the value of `read`; if it fails, add a note and return None."""
    try:
        return read()
    except InputError as error:
        notes.append(str(error))
        return None
