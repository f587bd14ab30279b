"""Tensors cut anywhere into the flat tensors that ZeRO gives an optimizer."""

import itertools

import torch
from torch import Tensor, nn

from trainer.engine.full_state import Fragment

Piece = tuple[int, nn.Parameter, int, int]
"""The place in a tensor; the flat tensor that has it, the place there, and the elements."""


def cut_up(
    tensors: list[Tensor], names: list[str], cuts: list[int]
) -> tuple[list[nn.Parameter], dict[Tensor, list[Fragment]], list[list[Piece]]]:
    """Return flat tensors with a gap before every fragment; where each piece of a tensor went."""
    total = sum(t.numel() for t in tensors)
    borders = [0, *sorted(min(cut, total) for cut in cuts), total]
    flats = [nn.Parameter(torch.full((2 * total + 1,), torch.nan).double()) for _ in borders[1:]]
    fragments: dict[Tensor, list[Fragment]] = {flat: [] for flat in flats}
    places: list[list[Piece]] = [[] for _ in tensors]
    ends = list(itertools.accumulate(t.numel() for t in tensors))
    for flat, low, high in zip(flats, borders, borders[1:], strict=False):
        start = 1
        for i, (end, tensor) in enumerate(zip(ends, tensors, strict=True)):
            first = max(low, end - tensor.numel())
            numel = min(high, end) - first
            if numel > 0:
                at = first - (end - tensor.numel())
                flat.data[start : start + numel] = tensor[at : at + numel]
                fragments[flat].append(Fragment(names[i], start, numel, at))
                places[i].append((at, flat, start, numel))
                start += numel + 1
    return flats, fragments, places
