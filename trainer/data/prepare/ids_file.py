"""Files of ids ready made: checked before any is used, and read block by block."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from trainer.errors import InputError
from trainer.outside import open_file, printable

IdsType = Literal["uint16", "uint32"]

#: Ids of a block.
BLOCK_IDS = 1 << 16
_NPY = b"\x93NUMPY"
_MOST_HEADER_CHARACTERS = 10_000


@dataclass(frozen=True)
class NumbersFile:
    """A file of whole numbers of one type, one after another.

    Attributes:
        path: the file, as the user named it.
        dtype: type of the numbers, with its byte order.
        begin: place of the first number, in bytes.
        n: how many numbers there are, at least one.
    """

    path: Path
    dtype: np.dtype[Any]
    begin: int
    n: int

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """Yield all numbers in order.

        Raises:
            InputError: the file has become shorter since it was opened, or cannot be read.
        """
        try:
            with open_file(self.path) as file:
                file.seek(self.begin)
                for first in range(0, self.n, BLOCK_IDS):
                    n_bytes = min(BLOCK_IDS, self.n - first) * self.dtype.itemsize
                    data = file.read(n_bytes)
                    if len(data) < n_bytes:
                        raise InputError(f"{printable(self.path)}: cut short while it was read")
                    yield np.frombuffer(data, self.dtype)
        except OSError as error:
            raise _unreadable(self.path, error) from None


def open_ids(path: Path, *, bare: np.dtype[Any]) -> NumbersFile:
    """Open a file of ids: a `.npy`, known by its first bytes, or bare numbers of type `bare`.

    Raises:
        InputError: the file is missing, empty, cut short or too long, or it is a `.npy` of anything
            but whole numbers on one axis.
    """
    try:
        with open_file(path) as file:
            n_bytes = os.fstat(file.fileno()).st_size
            if not n_bytes:
                raise InputError(f"{printable(path)}: empty: it has no ids")
            if file.read(len(_NPY)) == _NPY:
                file.seek(0)
                return _npy(path, file, n_bytes)
    except OSError as error:
        raise _unreadable(path, error) from None
    if path.suffix.lower() == ".npy":
        raise InputError(
            f"{printable(path)}: not a NumPy file: its first bytes are not those of one; write it "
            "with numpy.save, or name bare numbers .bin"
        )
    if n_bytes % bare.itemsize:
        raise InputError(
            f"{printable(path)}: {n_bytes:,} bytes are no whole number of {bare.name}: it is cut "
            "short, or of another type (--ids-dtype)"
        )
    return NumbersFile(path, bare, 0, n_bytes // bare.itemsize)


def open_positions(path: Path, *, n_ids: int) -> NumbersFile:
    """Open a `.npy` of the positions at which documents start in a text of `n_ids`; read it once.

    Raises:
        InputError: the file is none, or the positions do not begin with 0 and ascend below `n_ids`.
    """
    positions = open_ids(path, bare=np.dtype("<i8"))
    last = -1
    for block in positions.blocks():
        signed = block.astype(np.int64)
        if last < 0 and signed[0] != 0:
            raise InputError(f"{printable(path)}: the first document starts at {block[0]}, not 0")
        steps = np.diff(signed, prepend=last)
        if (steps <= 0).any():
            wrong = int(signed[np.argmax(steps <= 0)])
            raise InputError(
                f"{printable(path)}: the document that starts at {wrong} does not start after the "
                "one before it; each document has an id at least"
            )
        last = int(signed[-1])
    if last >= n_ids:
        raise InputError(
            f"{printable(path)}: a document starts at {last:,}, but there are {n_ids:,} ids"
        )
    return positions


def _npy(path: Path, file: BinaryIO, n_bytes: int) -> NumbersFile:
    """Read the header of a `.npy`; nothing in the file is ever unpickled."""
    try:
        major, _ = np.lib.format.read_magic(file)
        read = {
            1: np.lib.format.read_array_header_1_0,
            2: np.lib.format.read_array_header_2_0,
        }[major]
        shape, is_fortran, dtype = read(file, max_header_size=_MOST_HEADER_CHARACTERS)
    except Exception as error:  # numpy evaluates the header, which may fail in any way
        why = printable(error, most=200)
        raise InputError(f"{printable(path)}: a corrupt .npy: its header: {why}") from None
    where, fix = printable(path), "save whole numbers on one axis, such as ids.astype('uint32')"
    if dtype.hasobject:
        raise InputError(f"{where}: holds Python objects, which are never read: {fix}")
    if dtype.kind not in "iu":
        raise InputError(f"{where}: holds {dtype}, not whole numbers: {fix}")
    if is_fortran:
        raise InputError(f"{where}: in Fortran's order: save numpy.ascontiguousarray of it")
    if len(shape) != 1:
        raise InputError(f"{where}: has {len(shape)} axes {shape}, not one: save ids.reshape(-1)")
    if shape[0] < 1:
        raise InputError(f"{where}: empty: it has no ids")
    expected = file.tell() + shape[0] * dtype.itemsize
    if n_bytes != expected:
        how = "cut short" if n_bytes < expected else "too long"
        raise InputError(
            f"{where}: {how}: {n_bytes:,} bytes, its header says {expected:,}; get it again"
        )
    return NumbersFile(path, dtype, file.tell(), shape[0])


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{printable(path)}: {(error.strerror or 'cannot be read').lower()}")
