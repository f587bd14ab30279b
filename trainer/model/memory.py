"""Transformer-XL's memory: what it keeps of a segment, and which keys a query may see.

B streams · T tgt_len · M mem_len · S = M+T · L layers · D d_model · H heads · E d_head.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from trainer.protocol import Segment


class LayerInputs(NamedTuple):
    """The last M inputs of every layer."""

    layers: tuple[Tensor, ...]
    """`[B, M, D]` each in the compute dtype, newest last; finite also where not valid."""
    valid_B: Tensor
    """The number of a stream's newest positions, of M, that may be attended to, int64."""
    valid_min: int
    """A lower bound of `valid_B`, known on the host; if it is M, nothing needs to be masked."""


class KeysAndValues(NamedTuple):
    """The keys and values of every layer's last M inputs, for weights that do not change.

    Every segment read with one such memory takes the same `clamp_len`.
    """

    layers: tuple[Tensor, ...]
    """`[B, M, 2·H·E]` each: keys, then values."""
    positions: tuple[Tensor, ...]
    """`[S, H·E]` each, the layer's projection of the distances; () before the first segment."""
    valid_B: Tensor
    valid_min: int


M = TypeVar("M", bound=LayerInputs | KeysAndValues)


class Past(NamedTuple):
    """The keys before the segment that one layer attends to, and the distances to them."""

    memory_BMX: Tensor
    """Inputs of the layer, X = D; if `is_projected`, keys and values, X = 2·H·E."""
    is_projected: bool
    position_SD: Tensor | None
    """Sinusoids of the distances S-1 … 0; None where `r_SX` is known."""
    r_SX: Tensor | None = None
    """The layer's projection of the distances, X = H·E."""


def knows_positions(memory: LayerInputs | KeysAndValues, *, n_keys: int) -> bool:
    """Return whether a memory holds its layers' projections of the distances to `n_keys` keys."""
    if not isinstance(memory, KeysAndValues):
        return False
    return bool(memory.positions) and len(memory.positions[0]) == n_keys


def pasts(memory: LayerInputs | KeysAndValues, position_SD: Tensor | None) -> list[Past]:
    """Return the past of each layer; without `position_SD` the memory's own distances are used."""
    if position_SD is None:
        assert isinstance(memory, KeysAndValues)
        pairs = zip(memory.layers, memory.positions, strict=True)
        return [Past(rows_BMX, True, None, r_SX) for rows_BMX, r_SX in pairs]
    is_projected = isinstance(memory, KeysAndValues)
    return [Past(rows_BMX, is_projected, position_SD) for rows_BMX in memory.layers]


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


@torch.no_grad()
def remember(memory: M, segment: Segment, read_LBTX: Sequence[Tensor]) -> M:
    """Return the memory after a segment; padding never enters it.

    Args:
        memory: the memory before the segment.
        segment: the segment that was read.
        read_LBTX: per layer, its inputs, or its keys and values, of the segment; what a row has
            beyond the width of memory is left out.
    """
    mem_len, tgt_len = memory.layers[0].shape[1], segment.tokens_BT.shape[1]
    read_B = memory.valid_B + segment.lengths_B
    if segment.starts_BT is not None:
        last_B = segment.starts_BT.gather(1, (segment.lengths_B - 1).clamp_min(0)[:, None])[:, 0]
        began_B = (last_B >= 0) & (segment.lengths_B > 0)
        read_B = torch.where(began_B, segment.lengths_B - last_B, read_B)
    sure = segment.starts_BT is None and segment.whole
    n_read = memory.valid_min + tgt_len if sure else 0
    pairs = zip(memory.layers, read_LBTX, strict=True)
    after = memory._replace(
        layers=tuple(_newest(old_BMX, x_BTX, segment) for old_BMX, x_BTX in pairs),
        valid_B=read_B.clamp_max(mem_len),
        valid_min=min(mem_len, n_read),
    )
    return cast(M, after)


def _newest(old_BMX: Tensor, x_BTX: Tensor, segment: Segment) -> Tensor:
    """Return the newest M positions of memory and segment together, `[B, M, X]`."""
    n_streams, mem_len, _ = old_BMX.shape
    x_BTX = x_BTX[..., : old_BMX.shape[2]].to(old_BMX.dtype)  # back ends may pad rows
    if segment.whole:
        n_new = min(mem_len, x_BTX.shape[1])
        return torch.cat([old_BMX[:, n_new:], x_BTX[:, x_BTX.shape[1] - n_new :]], dim=1)
    device = old_BMX.device
    row_B1 = torch.arange(n_streams, device=device)[:, None]
    kept_BM = segment.lengths_B[:, None] + torch.arange(mem_len, device=device)
    return torch.cat([old_BMX, x_BTX], dim=1)[row_B1, kept_BM]


def visible_from(
    memory: LayerInputs | KeysAndValues, segment: Segment, *, same_length: bool
) -> Tensor | None:
    """Return the first key that each query sees, int64 `[1, T]` or `[B, T]`; None if all see key 0.

    Query i sees key j of S iff visible_from <= j <= i + M. Here visible_from is the largest of
    M - valid, the key at which the query's document starts, and, with `same_length`, i + 1.
    """
    mem_len, tgt_len = memory.layers[0].shape[1], segment.tokens_BT.shape[1]
    first_1T = None
    if same_length:
        first_1T = torch.arange(1, tgt_len + 1, device=memory.valid_B.device)[None]
    if segment.starts_BT is None and memory.valid_min == mem_len:
        return first_1T
    first_BT = (mem_len - memory.valid_B)[:, None].expand(-1, tgt_len)
    if segment.starts_BT is not None:
        starts_BT = segment.starts_BT
        first_BT = torch.where(starts_BT >= 0, mem_len + starts_BT, first_BT)
    return first_BT if first_1T is None else torch.maximum(first_BT, first_1T)


def hidden_keys(
    memory: LayerInputs | KeysAndValues, segment: Segment, *, same_length: bool
) -> Tensor:
    """Return which of the n newest keys a query may not see, bool `[T, n]` or `[B, 1, T, n]`.

    n is T, the segment's own keys, where every query sees all of memory; otherwise n is S.
    """
    first_BT = visible_from(memory, segment, same_length=same_length)
    mem_len, tgt_len = memory.layers[0].shape[1], segment.tokens_BT.shape[1]
    device = memory.valid_B.device
    query_T1 = torch.arange(mem_len, mem_len + tgt_len, device=device)[:, None]
    oldest = mem_len if first_BT is None else 0
    key_n = torch.arange(oldest, mem_len + tgt_len, device=device)
    hidden_Tn = key_n > query_T1
    if first_BT is None:
        return hidden_Tn
    hidden_BTn = hidden_Tn | (key_n < first_BT[:, :, None])
    return hidden_BTn[:, None] if len(hidden_BTn) > 1 else hidden_BTn[0]
