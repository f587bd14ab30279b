"""The memory in training: the last inputs of every layer.

B streams · T tgt_len · M mem_len · L layers · D d_model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model.memory.seen import last_after, newest_positions, valid_after
from trainer.protocol import Segment


class LayerInputs(NamedTuple):
    """The last M inputs of every layer."""

    layers: tuple[Tensor, ...]
    """`[B, M, D]` each in the compute dtype, newest last; finite also where not valid."""
    valid_B: Tensor
    """The number of a stream's newest positions, of M, that may be attended to, int64."""
    valid_min: int
    """A lower bound of `valid_B`, known on the host; if it is M, nothing needs to be masked."""
    last: tuple[Tensor, ...] = ()
    """Each stream's last token, `[B]`, if a model reads pairs: see `trainer.model.token_tables`."""

    @property
    def mem_len(self) -> int:
        """Return M."""
        return self.layers[0].shape[1]

    @property
    def like(self) -> Tensor:
        """Return a tensor of the memory's dtype and device."""
        return self.layers[0]


def empty_memory(
    n_layer: int,
    n_streams: int,
    mem_len: int,
    d_model: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> LayerInputs:
    """Return memory of streams that have read nothing: no position of it may be attended to."""
    shape = (n_streams, mem_len, d_model)
    return LayerInputs(
        layers=tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in range(n_layer)),
        valid_B=torch.zeros(n_streams, dtype=torch.int64, device=device),
        valid_min=0,
    )


def resized(memory: LayerInputs, mem_len: int) -> LayerInputs:
    """Return memory of `mem_len` positions, the newest of those that it had, newest last."""
    more, fewer = max(0, mem_len - memory.mem_len), max(0, memory.mem_len - mem_len)
    layers = tuple(F.pad(old_BMD[:, fewer:], (0, 0, more, 0)) for old_BMD in memory.layers)
    valid_B = memory.valid_B.clamp_max(mem_len)
    return LayerInputs(layers, valid_B, min(mem_len, memory.valid_min), memory.last)


def remember(
    memory: LayerInputs, segment: Segment, read_LBTD: Sequence[Tensor], *, attached: bool = False
) -> LayerInputs:
    """Return the memory after a segment; padding never enters it.

    Args:
        memory: the memory before the segment.
        segment: the segment that was read.
        read_LBTD: per layer, its inputs of the segment; what a row has beyond the width of memory
            is left out.
        attached: whether gradients go through what is remembered.
    """
    pairs = zip(memory.layers, read_LBTD, strict=True)
    with torch.set_grad_enabled(attached and torch.is_grad_enabled()):
        layers = tuple(_newest(old_BMD, x_BTD, segment) for old_BMD, x_BTD in pairs)
    return LayerInputs(layers, *valid_after(memory, segment), last_after(memory.last, segment))


def _newest(old_BMD: Tensor, x_BTD: Tensor, segment: Segment) -> Tensor:
    """Return the newest M positions of memory and segment together, `[B, M, D]`."""
    mem_len = old_BMD.shape[1]
    x_BTD = x_BTD[..., : old_BMD.shape[2]].to(old_BMD.dtype)  # back ends may pad rows
    if segment.whole and x_BTD.shape[1] == mem_len:
        return x_BTD if torch.is_grad_enabled() else x_BTD.detach()
    if segment.whole:
        n_new = min(mem_len, x_BTD.shape[1])
        return torch.cat([old_BMD[:, n_new:], x_BTD[:, x_BTD.shape[1] - n_new :]], dim=1)
    return torch.cat([old_BMD, x_BTD], dim=1)[newest_positions(segment, mem_len)]
