"""The Compressive Transformer's memory (Rae et al. 2020, arXiv 1911.05507).

Of each layer's inputs the newest are kept as they are, and of older ones every c make one
compressed position. Which make one is counted from where a text or a document began, so that it
does not depend on where segments end: fewer than c wait, and are attended to meanwhile.

B streams · T tgt_len · C compressed_len · M mem_len · c rate · K = C+M+c-1 · D d_model ·
J blocks of a segment.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model.memory.seen import newest_documents
from trainer.protocol import Segment


class Lengths(NamedTuple):
    """The lengths of the second memory."""

    compressed_len: int
    """Compressed positions, C."""
    rate: int
    """Inputs that make one of them, c."""

    @property
    def beside(self) -> int:
        """Return the positions of memory beside its mem_len: C, and the inputs that wait."""
        return self.compressed_len + self.rate - 1


class CompressedInputs(NamedTuple):
    """Per layer its compressed positions, then its newest inputs."""

    layers: tuple[Tensor, ...]
    """`[B, K, D]` each in the compute dtype, newest last; zeros where not valid."""
    valid_B: Tensor
    """The number of a stream's newest positions, of K, that may be attended to, int64."""
    inputs_B: Tensor
    """The number of these that are inputs, the newest, at most M+c-1; older ones are compressed."""

    @property
    def valid_min(self) -> int:
        """Return a lower bound of `valid_B`: how many inputs wait differs from time to time."""
        return 0

    @property
    def last(self) -> tuple[Tensor, ...]:
        """Return (): no pairs are read."""
        return ()

    @property
    def mem_len(self) -> int:
        """Return K, all positions that attention sees."""
        return self.layers[0].shape[1]

    @property
    def like(self) -> Tensor:
        """Return a tensor of the memory's dtype and device."""
        return self.layers[0]


class Move(NamedTuple):
    """Which positions a segment makes into compressed ones, and what memory is made of after it."""

    blocks_BJc: Tensor
    """The inputs of each block, of K+T positions of memory and segment, int64."""
    made_B: Tensor
    """The number of the J blocks that are whole, the first; the others are not read."""
    kept_BK: Tensor
    """The positions of memory after, of K+T+J: memory, segment and what was made, int64."""
    valid_B: Tensor
    inputs_B: Tensor

    def inputs(self, x_BSD: Tensor) -> Tensor:
        """Return the inputs of all blocks in order, `[B, J·c, D]`."""
        return _gathered(x_BSD, self.blocks_BJc.flatten(1))

    def after(self, x_BSD: Tensor, made_BJD: Tensor) -> Tensor:
        """Return a layer's memory after the segment, `[B, K, D]`."""
        after_BKD = _gathered(torch.cat([x_BSD, made_BJD], dim=1), self.kept_BK)
        return after_BKD.where(_newest(self.kept_BK.shape[1], self.valid_B), 0)


def empty_memory(
    n_layer: int,
    n_streams: int,
    mem_len: int,
    d_model: int,
    lengths: Lengths,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> CompressedInputs:
    """Return memory of streams that have read nothing: no position of it may be attended to."""
    shape = (n_streams, lengths.beside + mem_len, d_model)
    return CompressedInputs(
        tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in range(n_layer)),
        *(torch.zeros(n_streams, dtype=torch.int64, device=device) for _ in range(2)),
    )


def move(memory: CompressedInputs, segment: Segment, lengths: Lengths) -> Move:
    """Return what becomes of memory and a segment, the same in every layer.

    Nothing waits for the device, and all shapes follow from those of memory and segment.
    """
    c, n_all = lengths.rate, memory.mem_len
    mem_len, tgt_len = n_all - lengths.beside, segment.tokens_BT.shape[1]
    inputs_B = memory.inputs_B + segment.lengths_B
    compressed_B = memory.valid_B - memory.inputs_B
    if (newest_B := newest_documents(segment)) is not None:
        inputs_B = torch.where(newest_B > 0, newest_B, inputs_B)
        compressed_B = torch.where(newest_B > 0, 0, compressed_B)
    made_B = (inputs_B - mem_len).clamp_min(0) // c
    device, most = made_B.device, (tgt_len + c - 1) // c
    end_B1 = (n_all + segment.lengths_B)[:, None]
    oldest_B1 = end_B1 - inputs_B[:, None]
    blocks_BX = (oldest_B1 + torch.arange(most * c, device=device)).clamp_max(n_all + tgt_len - 1)
    left_B = inputs_B - made_B * c

    # From the newest position back: inputs, what was made now, what was compressed before.
    back_K = torch.arange(n_all - 1, -1, -1, device=device)
    made_B1, older_BK = made_B[:, None], back_K - left_B[:, None]
    before_B1 = n_all - memory.inputs_B[:, None] - 1
    kept_BK = torch.where(
        older_BK < 0,
        end_B1 - 1 - back_K,
        torch.where(
            older_BK < made_B1,
            n_all + tgt_len + made_B1 - 1 - older_BK,
            (before_B1 - (older_BK - made_B1)).clamp_min(0),
        ),
    )
    valid_B = left_B + (compressed_B + made_B).clamp_max(lengths.compressed_len)
    return Move(torch.unflatten(blocks_BX, 1, (most, c)), made_B, kept_BK, valid_B, left_B)


def resized(memory: CompressedInputs, mem_len: int, lengths: Lengths) -> CompressedInputs:
    """Return memory of `mem_len` inputs, the newest of those that it had.

    Where they do not all fit, whole blocks of them are left out, and with them what is older.
    """
    n_all, c = lengths.beside + mem_len, lengths.rate
    more, fewer = max(0, n_all - memory.mem_len), max(0, memory.mem_len - n_all)
    most = mem_len + c - 1
    n_blocks_B = ((memory.inputs_B - most).clamp_min(0) + c - 1) // c
    inputs_B = memory.inputs_B - n_blocks_B * c
    valid_B = torch.where(n_blocks_B > 0, inputs_B, memory.valid_B)
    is_valid_BK1 = _newest(n_all, valid_B)
    layers = tuple(
        F.pad(old_BKD[:, fewer:], (0, 0, more, 0)).where(is_valid_BK1, 0)
        for old_BKD in memory.layers
    )
    return CompressedInputs(layers, valid_B, inputs_B)


def _newest(n_all: int, valid_B: Tensor) -> Tensor:
    """Return which of so many positions are the newest of each row, `[B, n, 1]`."""
    back = torch.arange(n_all - 1, -1, -1, device=valid_B.device)
    return (back < valid_B[:, None])[..., None]


def _gathered(x_BSD: Tensor, index_BN: Tensor) -> Tensor:
    """Return positions of each row, `[B, N, D]`."""
    row_B1 = torch.arange(len(x_BSD), device=x_BSD.device)[:, None]
    return x_BSD[row_B1, index_BN]
