"""Streams forgotten in place are those that are forgotten in a copy."""

import importlib
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from triton_device import DEVICE, importing_kernels

from trainer.engine.passes import forgetting
from trainer.engine.passes.forgetting import forget_in_place
from trainer.memory_tree import forget_streams, leaves

with importing_kernels():
    importlib.import_module("trainer.model.triton.rows.forgetting")


class Cells(NamedTuple):
    layers: tuple[Tensor, ...]
    read_B: Tensor
    sure: int


def cells(n_streams: int, value: float) -> Cells:
    wide = torch.full((n_streams, 3, 2), value, dtype=torch.bfloat16, device=DEVICE)
    strided = torch.full((2, n_streams), value, device=DEVICE).transpose(0, 1)
    return Cells((wide, strided), torch.full((n_streams,), 7 * int(value == 1), device=DEVICE), 0)


@pytest.mark.parametrize("by_kernel", [False, True])
def test_what_is_forgotten_in_place_is_what_is_forgotten_in_a_copy(
    interpreted: None, monkeypatch: pytest.MonkeyPatch, by_kernel: bool
) -> None:
    takes = Tensor.is_contiguous if by_kernel else lambda leaf: False
    monkeypatch.setattr(forgetting, "_kernel_takes", takes)
    memory, unread = cells(4, 1.0), cells(1, 0.5)
    memory.layers[0][1] = torch.nan
    keep_B = torch.tensor([True, False, True, False], device=DEVICE)
    wanted = forget_streams(memory, keep_B, unread=unread)
    places = [leaf.data_ptr() for _, leaf in leaves(memory) if isinstance(leaf, Tensor)]
    forget_in_place(memory, keep_B, unread=unread)
    assert places == [leaf.data_ptr() for _, leaf in leaves(memory) if isinstance(leaf, Tensor)]
    torch.testing.assert_close(memory, wanted, rtol=0, atol=0)
