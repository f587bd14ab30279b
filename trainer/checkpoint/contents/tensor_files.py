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

from trainer.errors import InputError, first_few
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
        InputError: the file cannot be opened, or holds no tensors.
    """
    try:
        opened = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise InputError(f"{path} holds no tensors: {error}; use another checkpoint") from None
    except OSError as error:  # some file systems cannot map files into memory
        raise InputError(f"{path} cannot be read: {error}; copy it to another disk") from None
    with opened as tensors:
        yield tensors


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a file by name, on the CPU; raise what `open_tensors` raises."""
    with open_tensors(path) as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118


def refuse_misfit(
    found: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], *, where: Path
) -> None:
    """Refuse tensors whose names or shapes are not the model's.

    Raises:
        InputError: lists the differences.
    """
    differing = [
        f"{name} is {_shape(found.get(name))}, the model's {_shape(shapes.get(name))}"
        for name in sorted({*found, *shapes})
        if found.get(name) != shapes.get(name)
    ]
    if differing:
        raise InputError(f"{where} does not fit the model: {first_few(differing, separator='; ')}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape)) or "a number"
