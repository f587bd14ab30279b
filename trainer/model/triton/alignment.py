"""Rows of widths that a GPU computes fast.

A GPU's matrix units read rows fast that begin at multiples of 16 bytes, so a width of 410 or 41 is
stored as 416 or 48. Pads are zero, in weights and in all that is computed with them, so no result
changes; the gradients of pads are zero too, and so no update changes them.

The weights of a model that trains are stored with their pads: see `store_aligned`. Checkpoints,
exports and the memory of layer inputs keep the logical widths. The weights of any other model are
padded where they are used.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: The length of a row is a multiple of so many elements: 16 bytes in 16-bit types, 32 in fp32.
ALIGNMENT = 8


class Pads(NamedTuple):
    """The place of a weight among its pads: each dimension of `blocks` is padded at its end."""

    shape: tuple[int, ...]
    """The logical shape."""
    blocks: tuple[int, ...]
    """The same elements, in as many dimensions as have pads or are divided by them."""
    stored_blocks: tuple[int, ...]
    """`blocks` with pads."""
    stored_shape: tuple[int, ...]

    def added(self, x: Tensor) -> Tensor:
        """Return a tensor of the logical shape with its pads."""
        sizes = zip(reversed(self.blocks), reversed(self.stored_blocks), strict=True)
        widths = [width for size, stored_size in sizes for width in (0, stored_size - size)]
        return F.pad(x.reshape(self.blocks), widths).view(self.stored_shape)

    def removed(self, x: Tensor) -> Tensor:
        """Return a tensor of the stored shape without its pads."""
        return self.taken(x.flatten(), 0).reshape(self.shape)

    def n_before(self, place: int) -> int:
        """Return how many elements that are no pads lie before a place in the flat parameter."""
        count, unit, stored_unit = 0, math.prod(self.blocks), math.prod(self.stored_blocks)
        for size, stored_size in zip(self.blocks, self.stored_blocks, strict=True):
            unit, stored_unit = unit // size, stored_unit // stored_size
            index, place = divmod(place, stored_unit)
            if index >= size:
                return count + size * unit
            count += index * unit
        return count

    def taken(self, x_N: Tensor, begin: int) -> Tensor:
        """Return what is no pad of a part of the flat parameter, in order; copied if it must be.

        Args:
            x_N: the elements from `begin` on.
            begin: a place in the flat parameter with its pads.
        """
        if len(x_N) == math.prod(self.stored_blocks):
            return x_N.view(self.stored_blocks)[tuple(slice(size) for size in self.blocks)]
        rows_RC, is_row_R, front = self._rows(x_N, begin)
        kept_N = rows_RC[is_row_R, : self.blocks[-1]].flatten()
        skipped = self.n_before(begin) - self.n_before(begin - front)
        return kept_N[skipped:][: self.n_before(begin + len(x_N)) - self.n_before(begin)]

    def put(self, x_N: Tensor, begin: int, values_M: Tensor) -> None:
        """Set what is no pad of a part of the flat parameter; arguments as those of `taken`."""
        rows_RC, is_row_R, front = self._rows(torch.zeros_like(x_N), begin)
        kept_RC = rows_RC.new_zeros(int(is_row_R.sum()), self.blocks[-1])
        skipped = self.n_before(begin) - self.n_before(begin - front)
        kept_RC.view(-1)[skipped:][: len(values_M)] = values_M
        rows_RC[is_row_R, : self.blocks[-1]] = kept_RC
        x_N.copy_(rows_RC.view(-1)[front:][: len(x_N)])

    def _rows(self, x_N: Tensor, begin: int) -> tuple[Tensor, Tensor, int]:
        """Return the rows in which a part lies, which of them are no pads, and what is in front."""
        width = self.stored_blocks[-1]
        front, back = begin % width, -(begin + len(x_N)) % width
        rows_RC = F.pad(x_N, (front, back)).view(-1, width)
        row_R = torch.arange(len(rows_RC), device=x_N.device) + begin // width
        is_row_R = torch.ones_like(row_R, dtype=torch.bool)
        for size, stored_size in zip(self.blocks[-2::-1], self.stored_blocks[-2::-1], strict=True):
            is_row_R &= row_R % stored_size < size
            row_R = row_R // stored_size
        return rows_RC, is_row_R, front


def pads_of(parameter: Tensor) -> Pads | None:
    """Return the pads with which a parameter is stored; None if it has none."""
    return getattr(parameter, "pads", None)


def store_rows(parameter: Tensor) -> None:
    """Store a parameter, `[…, width]`, with rows that are aligned, in place."""
    *first, width = parameter.shape
    shape = (*first, stored(width))
    _store(parameter, Pads(tuple(parameter.shape), tuple(parameter.shape), shape, shape))


def store_weight(parameter: Tensor, *, n_in: int = 1, n_out: int = 1) -> None:
    """Store a linear layer's weight as `aligned_weight` pads it, in place; arguments as there."""
    n_rows, n_columns = parameter.shape
    blocks = (n_out, n_rows // n_out, n_in, n_columns // n_in)
    stored_blocks = (n_out, stored(blocks[1]), n_in, stored(blocks[3]))
    shape = (n_out * stored_blocks[1], n_in * stored_blocks[3])
    _store(parameter, Pads(tuple(parameter.shape), blocks, stored_blocks, shape))


def _store(parameter: Tensor, pads: Pads) -> None:
    if pads.stored_shape == pads.shape or pads_of(parameter) is not None:
        return  # aligned as it is, or met before: weights may be tied
    parameter.data = pads.added(parameter.data)
    parameter.pads = pads  # type: ignore[attr-defined]


def stored(width: int) -> int:
    """Return how many elements a row of `width` takes."""
    return -(-width // ALIGNMENT) * ALIGNMENT


def aligned(x: Tensor, *, dim: int = -1) -> Tensor:
    """Return `x` padded with zeros at the end of `dim`; `x` itself where it is aligned."""
    pad = stored(x.shape[dim]) - x.shape[dim]
    if pad == 0:
        return x
    after = x.dim() - 1 - dim % x.dim()
    return F.pad(x, (0, 0) * after + (0, pad))


def aligned_weight(weight: Tensor, *, n_in: int = 1, n_out: int = 1) -> Tensor:
    """Return a linear layer's weight padded for aligned rows; `weight` itself if that is aligned.

    Args:
        weight: `[out, in]`.
        n_in: the number of rows that lie side by side in the layer's input, each aligned.
        n_out: the number of aligned rows that lie side by side in its output.
    """
    n_rows, n_columns = weight.shape
    if n_rows // n_out % ALIGNMENT == 0 and n_columns // n_in % ALIGNMENT == 0:
        return weight
    blocks = weight.view(n_out, n_rows // n_out, n_in, n_columns // n_in)
    return aligned(aligned(blocks), dim=1).flatten(2).flatten(0, 1)
