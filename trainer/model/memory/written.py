"""The memory for reading with weights that do not change: keys and values, in rooms.

B streams · T tgt_len · M mem_len · S = M+T · H heads · E d_head · C positions of a room.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.model.memory.seen import last_after, newest_positions, valid_after
from trainer.protocol import Segment


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
    last: tuple[Tensor, ...] = ()
    """See `LayerInputs`."""

    @property
    def layers(self) -> tuple[Tensor, ...]:
        """Return each layer's keys and values, `[B, M, 2, H, E]`, newest last."""
        begin = self.end - self.mem_len
        return tuple(_positions(rows, begin, self.end) for rows in self.room.layers)

    @property
    def like(self) -> Tensor:
        """Return a tensor of the memory's dtype and device."""
        return self.room.layers[0]


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


@torch.no_grad()
def remember_written(
    memory: KeysAndValues, segment: Segment, positions: Sequence[Tensor]
) -> KeysAndValues:
    """Return the memory after a segment whose keys and values the layers have written after it."""
    end = memory.end + segment.tokens_BT.shape[1]
    memory.room.n_written = end
    valid_B, valid_min = valid_after(memory, segment)
    after = memory._replace(
        end=end,
        positions=tuple(positions),
        valid_B=valid_B,
        valid_min=valid_min,
        last=last_after(memory.last, segment),
    )
    if segment.whole:
        return after
    begin = memory.end - memory.mem_len
    kept = newest_positions(segment, memory.mem_len)
    layers = [_positions(rows, begin, end)[kept] for rows in memory.room.layers]
    return _moved(after, layers, 0)


def _positions(rows_2HBCE: Tensor, begin: int, end: int) -> Tensor:
    """Return keys and values from one position of a room to another, `[B, n, 2, H, E]`."""
    return rows_2HBCE[..., begin:end, :].permute(2, 3, 0, 1, 4)
