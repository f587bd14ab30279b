"""Importing libraries that only some users need, which an extra of the project installs."""

from importlib import import_module
from typing import Any

from trainer.errors import InputError
from trainer.wording import printable


def optional(name: str, *, extra: str, does: str) -> Any:
    """Import the module `name`.

    Args:
        name: the module.
        extra: the extra of pyproject.toml that installs its library.
        does: what the library does, for the error.

    Raises:
        InputError: the library is not installed or broken.
    """
    try:
        return import_module(name)
    except ImportError as error:
        library = name.partition(".")[0]
        raise InputError(
            f"to {does} takes {library}, which cannot be imported ({printable(error)}): "
            f"install the extra {extra} (pip install {library})"
        ) from None
