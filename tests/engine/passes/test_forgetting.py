"""Streams forgotten in place are those that are forgotten in a copy."""

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.engine.passes.forgetting import forget_in_place
from trainer.memory_tree import forget_streams, leaves


class Cells(NamedTuple):
    layers: tuple[Tensor, ...]
    read_B: Tensor
    sure: int


def cells(n_streams: int, value: float) -> Cells:
    wide = torch.full((n_streams, 3, 2), value, dtype=torch.bfloat16)
    strided = torch.full((2, n_streams), value).transpose(0, 1)
    return Cells((wide, strided), torch.full((n_streams,), 7 * int(value == 1)), 0)


def test_what_is_forgotten_in_place_is_what_is_forgotten_in_a_copy() -> None:
    memory, unread = cells(4, 1.0), cells(1, 0.5)
    memory.layers[0][1] = torch.nan
    keep_B = torch.tensor([True, False, True, False])
    wanted = forget_streams(memory, keep_B, unread=unread)
    places = [leaf.data_ptr() for _, leaf in leaves(memory) if isinstance(leaf, Tensor)]
    forget_in_place(memory, keep_B, unread=unread)
    assert places == [leaf.data_ptr() for _, leaf in leaves(memory) if isinstance(leaf, Tensor)]
    torch.testing.assert_close(memory, wanted, rtol=0, atol=0)
