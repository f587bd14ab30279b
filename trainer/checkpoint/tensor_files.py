"""Files of tensors in the safetensors format, which holds no code.

A written file can be read by everyone who may read the folder's other files.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainer.errors import InputError
from trainer.files import share


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, *, metadata: dict[str, str] | None = None
) -> None:
    """Write contiguous `tensors` by name to a new file; other threads can run meanwhile.

    Raises:
        OSError: the disk is full or gone.
    """
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from None
    share(path)


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open a file of tensors with safetensors' `safe_open`, which reads each only when asked for.

    Raises:
        InputError: the file cannot be read, or holds no tensors.
    """
    try:
        with safe_open(path, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise InputError(f"{path} holds no tensors: {error}; use another checkpoint") from None
    except OSError as error:  # some file systems cannot map files into memory
        raise InputError(f"{path} cannot be read: {error}; copy it to another disk") from None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a file by name, on the CPU; raise what `open_tensors` raises."""
    with open_tensors(path) as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
