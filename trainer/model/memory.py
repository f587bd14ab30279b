"""Transformer-XL's memory: what it keeps of a segment.

B streams · T tgt_len · M mem_len · S = M+T · L layers · D d_model · H heads · E d_head ·
C positions of a room.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.protocol import Segment


class Seen(Protocol):
    """A memory of M positions per layer that attention sees, of which the newest are valid."""

    @property
    def layers(self) -> tuple[Tensor, ...]:
        """Return what each layer keeps, `[B, M, …]`, newest last."""

    @property
    def valid_B(self) -> Tensor:  # noqa: N802  # a shape suffix
        """Return how many of a stream's newest positions may be attended to, int64."""

    @property
    def valid_min(self) -> int:
        """Return a lower bound of `valid_B`, known on the host."""

    @property
    def mem_len(self) -> int:
        """Return M."""

    @property
    def like(self) -> Tensor:
        """Return a tensor of the memory's dtype and device."""


class LayerInputs(NamedTuple):
    """The last M inputs of every layer."""

    layers: tuple[Tensor, ...]
    """`[B, M, D]` each in the compute dtype, newest last; finite also where not valid."""
    valid_B: Tensor
    """The number of a stream's newest positions, of M, that may be attended to, int64."""
    valid_min: int
    """A lower bound of `valid_B`, known on the host; if it is M, nothing needs to be masked."""

    @property
    def mem_len(self) -> int:
        """Return M."""
        return self.layers[0].shape[1]

    @property
    def like(self) -> Tensor:
        """Return a tensor of the memory's dtype and device."""
        return self.layers[0]


class Room:
    """Keys and values of texts, heads first and in order, with room for more.

    Memories after neighbouring segments share a room until it is full, so that a short segment is
    all that is copied. Only the newest memory of a room may write: see `with_room`.
    """

    def __init__(self, layers: tuple[Tensor, ...], n_written: int) -> None:
        """Take the tensors of all layers, `[2, H, B, C, E]`, with `n_written` of C positions."""
        self.layers, self.n_written = layers, n_written


class KeysAndValues(NamedTuple):
    """The keys and values of every layer's last M inputs, for weights that do not change.

    Every segment read with one such memory takes the same `clamp_len`.
    """

    room: Room
    end: int
    """The number of positions in the room up to the newest of this memory."""
    mem_len: int
    positions: tuple[Tensor, ...]
    """`[S, H, E]` each, the layer's projection of the distances; () before the first segment."""
    valid_B: Tensor
    valid_min: int

    @property
    def layers(self) -> tuple[Tensor, ...]:
        """Return each layer's keys and values, `[B, M, 2, H, E]`, newest last."""
        begin = self.end - self.mem_len
        return tuple(_positions(rows, begin, self.end) for rows in self.room.layers)

    @property
    def like(self) -> Tensor:
        """Return a tensor of the memory's dtype and device."""
        return self.room.layers[0]


M = TypeVar("M", bound=LayerInputs | KeysAndValues)


class Written(NamedTuple):
    """Keys and values before the segment, in a room that has place for the segment's."""

    rows_2HBCE: Tensor
    begin: int
    end: int

    @property
    def before(self) -> Tensor:
        """Return the keys and values before the segment."""
        return _positions(self.rows_2HBCE, self.begin, self.end)

    def write(self, kv_BT2HE: Tensor) -> None:
        """Write a segment's keys and values after those before."""
        last = self.end + kv_BT2HE.shape[1]
        self.rows_2HBCE[..., self.end : last, :] = kv_BT2HE.detach().permute(2, 3, 0, 1, 4)

    def append(self, kv_BT2HE: Tensor) -> Tensor:
        """Write a segment's keys and values; return them with those before, `[B, S, 2, H, E]`."""
        self.write(kv_BT2HE)
        if kv_BT2HE.requires_grad:
            return torch.cat([self.before, kv_BT2HE], dim=1)
        return _positions(self.rows_2HBCE, self.begin, self.end + kv_BT2HE.shape[1])


class Past(NamedTuple):
    """The part of memory that one layer attends to, and the distances to all keys."""

    memory_BMD: Tensor | None
    """Inputs of the layer; None where their keys and values are `written`."""
    written: Written | None
    position_SD: Tensor | None
    """Sinusoids of the distances S-1 … 0; None where `r_SHE` is known."""
    r_SHE: Tensor | None = None
    """The layer's projection of the distances."""


def knows_positions(memory: Seen, *, n_keys: int) -> bool:
    """Return whether a memory holds its layers' projections of the distances to `n_keys` keys."""
    if not isinstance(memory, KeysAndValues):
        return False
    return bool(memory.positions) and len(memory.positions[0]) == n_keys


def pasts(memory: Seen, position_SD: Tensor | None) -> list[Past]:
    """Return the past of each layer; without `position_SD` the memory's own distances are used."""
    if not isinstance(memory, KeysAndValues):
        return [Past(inputs_BMD, None, position_SD) for inputs_BMD in memory.layers]
    ends = memory.end - memory.mem_len, memory.end
    written = [Written(rows, *ends) for rows in memory.room.layers]
    if position_SD is not None:
        return [Past(None, rows, position_SD) for rows in written]
    pairs = zip(written, memory.positions, strict=True)
    return [Past(None, rows, None, r_SHE) for rows, r_SHE in pairs]


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


def empty_keys_and_values(
    n_layer: int,
    n_streams: int,
    mem_len: int,
    n_head: int,
    d_head: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> KeysAndValues:
    """Return memory for reading, of streams that have read nothing."""
    shape = (2, n_head, n_streams, mem_len, d_head)
    rows = tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in range(n_layer))
    valid_B = torch.zeros(n_streams, dtype=torch.int64, device=device)
    return KeysAndValues(Room(rows, mem_len), mem_len, mem_len, (), valid_B, 0)


def with_room(memory: KeysAndValues, n_new: int) -> KeysAndValues:
    """Return a memory after whose newest position `n_new` more can be written.

    That is the same one, unless its room is full, or another segment was read from it before.
    """
    room = memory.room
    if memory.end == room.n_written and memory.end + n_new <= room.layers[0].shape[3]:
        return memory
    return _moved(memory, memory.layers, n_new)


def spare_positions(mem_len: int) -> int:
    """Return how many positions beyond M a new room has at least.

    Tokens that come one by one move the M positions once in so many of them.
    """
    return max(16, mem_len // 16)


def _moved(memory: KeysAndValues, layers: Sequence[Tensor], n_new: int) -> KeysAndValues:
    """Return `memory` with other keys and values, `[B, M, 2, H, E]` each, in a new room."""
    mem_len = memory.mem_len
    n_spare = max(n_new, spare_positions(mem_len))
    rows = []
    for kv_BM2HE in layers:
        kv_2HBME = kv_BM2HE.permute(2, 3, 0, 1, 4)
        rows.append(kv_2HBME.new_empty(*kv_2HBME.shape[:3], mem_len + n_spare, kv_2HBME.shape[4]))
        rows[-1][..., :mem_len, :] = kv_2HBME
    return memory._replace(room=Room(tuple(rows), mem_len), end=mem_len)


def resized(memory: LayerInputs, mem_len: int) -> LayerInputs:
    """Return memory of `mem_len` positions, the newest of those that it had, newest last."""
    more, fewer = max(0, mem_len - memory.mem_len), max(0, memory.mem_len - mem_len)
    layers = tuple(F.pad(old_BMD[:, fewer:], (0, 0, more, 0)) for old_BMD in memory.layers)
    valid_B = memory.valid_B.clamp_max(mem_len)
    return LayerInputs(layers, valid_B, min(mem_len, memory.valid_min))


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
    return _counted(memory, segment)._replace(layers=layers)


@torch.no_grad()
def remember_written(
    memory: KeysAndValues, segment: Segment, positions: Sequence[Tensor]
) -> KeysAndValues:
    """Return the memory after a segment whose keys and values the layers have written after it."""
    end = memory.end + segment.tokens_BT.shape[1]
    memory.room.n_written = end
    after = _counted(memory, segment)._replace(end=end, positions=tuple(positions))
    if segment.whole:
        return after
    begin = memory.end - memory.mem_len
    kept = _kept(segment, memory.mem_len)
    layers = [_positions(rows, begin, end)[kept] for rows in memory.room.layers]
    return _moved(after, layers, 0)


def _positions(rows_2HBCE: Tensor, begin: int, end: int) -> Tensor:
    """Return keys and values from one position of a room to another, `[B, n, 2, H, E]`."""
    return rows_2HBCE[..., begin:end, :].permute(2, 3, 0, 1, 4)


def _counted(memory: M, segment: Segment) -> M:
    """Return `memory` with `valid_B` and `valid_min` as they are after the segment."""
    mem_len, tgt_len = memory.mem_len, segment.tokens_BT.shape[1]
    read_B = memory.valid_B + segment.lengths_B
    if (newest_B := newest_documents(segment)) is not None:
        read_B = torch.where(newest_B > 0, newest_B, read_B)
    sure = segment.starts_BT is None and segment.whole
    n_read = memory.valid_min + tgt_len if sure else 0
    after = memory._replace(valid_B=read_B.clamp_max(mem_len), valid_min=min(mem_len, n_read))
    return cast(M, after)


def newest_documents(segment: Segment) -> Tensor | None:
    """Return how many tokens a row has read of a document that began in the segment, 0 if none did.

    None if memory is not cut inside the segment.
    """
    if segment.starts_BT is None:
        return None
    last_B = segment.starts_BT.gather(1, (segment.lengths_B - 1).clamp_min(0)[:, None])[:, 0]
    began_B = (last_B >= 0) & (segment.lengths_B > 0)
    return torch.where(began_B, segment.lengths_B - last_B, 0)


def _kept(segment: Segment, mem_len: int) -> tuple[Tensor, Tensor]:
    """Return an index of each row's newest M positions, of those of memory and segment."""
    device = segment.lengths_B.device
    row_B1 = torch.arange(len(segment.lengths_B), device=device)[:, None]
    return row_B1, segment.lengths_B[:, None] + torch.arange(mem_len, device=device)


def _newest(old_BMD: Tensor, x_BTD: Tensor, segment: Segment) -> Tensor:
    """Return the newest M positions of memory and segment together, `[B, M, D]`."""
    mem_len = old_BMD.shape[1]
    x_BTD = x_BTD[..., : old_BMD.shape[2]].to(old_BMD.dtype)  # back ends may pad rows
    if segment.whole and x_BTD.shape[1] == mem_len:
        return x_BTD if torch.is_grad_enabled() else x_BTD.detach()
    if segment.whole:
        n_new = min(mem_len, x_BTD.shape[1])
        return torch.cat([old_BMD[:, n_new:], x_BTD[:, x_BTD.shape[1] - n_new :]], dim=1)
    return torch.cat([old_BMD, x_BTD], dim=1)[_kept(segment, mem_len)]
