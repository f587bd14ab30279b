"""The part of a memory that each layer attends to.

B streams · T tgt_len · M mem_len · S = M+T · H heads · E d_head · D d_model.
"""

from typing import NamedTuple

from torch import Tensor

from trainer.model.memory.seen import Seen
from trainer.model.memory.written import KeysAndValues, Written


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
