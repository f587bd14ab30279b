"""Reading any part of any parameter of a checkpoint, from whichever files hold it.

N elements of a flat parameter.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint.contents.index import Index, optimizer_file, weights_file
from trainer.checkpoint.contents.tensor_files import open_tensors
from trainer.errors import InputError
from trainer.outside import shortened

#: Elements that are read at once: files are mapped into memory, and unmapped after so many.
PIECE = 1 << 22


class Parts:
    """The weights and moments of a verified checkpoint; nothing is read before it is asked for."""

    def __init__(self, path: Path, index: Index) -> None:
        """Read from the checkpoint at `path`, which has this index."""
        self._path, self._index = path, index

    def check(self) -> None:
        """Make sure that the files of weights hold what the index says; read their headers alone.

        Raises:
            InputError: a file is missing, or holds something else.
        """
        of_rank: dict[int, dict[str, int]] = {}
        for name, entry in self._index.items():
            for part in entry.parts:
                of_rank.setdefault(part.rank, {})[name] = part.numel
        for rank, numels in of_rank.items():
            with open_tensors(self._path / weights_file(rank)) as tensors:
                for name, numel in numels.items():
                    if not _holds(tensors, name, numel):
                        raise self._misfit(rank, name)

    def read(self, name: str, key: str, begin: int, into_N: Tensor) -> None:
        """Fill a tensor of any dtype and device with elements of a parameter.

        Args:
            name: the parameter.
            key: ``weight``, or the name of a moment.
            begin: the first element.
            into_N: the tensor; the parameter has so many elements from `begin` on.

        Raises:
            InputError: a file does not hold what the index says.
        """
        end = begin + into_N.numel()
        file_of = weights_file if key == "weight" else optimizer_file
        stored = name if key == "weight" else f"{name}|{key}"
        for part in self._index[name].parts:
            first, last = max(begin, part.begin), min(end, part.begin + part.numel)
            for low in range(first, last, PIECE):
                high = min(low + PIECE, last)
                with open_tensors(self._path / file_of(part.rank)) as tensors:
                    if not _holds(tensors, stored, part.numel):
                        raise self._misfit(part.rank, stored)
                    found_N = _slice(tensors, stored, low - part.begin, high - part.begin)
                    into_N[low - begin : high - begin].copy_(found_N)

    def _misfit(self, rank: int, name: str) -> InputError:
        return InputError(
            f"{self._path}: the files of rank {rank} do not hold {shortened(name)} in fp32 as the "
            "index says: use another checkpoint"
        )


def _holds(tensors: Any, name: str, numel: int) -> bool:
    """Return whether a file has so many elements in fp32 by this name."""
    if name not in tensors.keys():  # noqa: SIM118
        return False
    opened = tensors.get_slice(name)
    return bool(opened.get_dtype() == "F32" and math.prod(opened.get_shape()) == numel)


def _slice(tensors: Any, name: str, low: int, high: int) -> Tensor:
    """Return flat elements `low` to `high` of a tensor of any shape."""
    opened = tensors.get_slice(name)
    shape = opened.get_shape()
    if not shape:
        return torch.flatten(tensors.get_tensor(name))[low:high]
    width = max(1, math.prod(shape[1:]))
    row = low // width
    rows = opened[row : -(-high // width)]
    return torch.flatten(rows)[low - row * width : high - row * width]
