"""Rows of heads to read in chunks, with documents and padding, for tests of what reads them."""

from typing import Any

import torch
from builders import segment_of

from trainer.model.families.blocks import Chunk, chunks_of

B, H, T = 3, 2, 11
LENGTHS = [11, 4, 9]
STARTS = torch.tensor([[-1] * 3 + [3] * 5 + [8] * 3, [0] * 11, [-1] * 11])


def random_rows(*widths: int) -> list[torch.Tensor]:
    """Return rows `[B, H, T, width]` in fp64."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(B, H, T, width) for width in widths]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def chunks(size: int, *, whole: bool = False) -> tuple[Chunk, ...]:
    """Return the chunks of a segment, with documents and padding unless it is `whole`."""
    tokens_BT = torch.zeros(B, T, dtype=torch.int64)
    segment = segment_of(tokens_BT, lengths=LENGTHS, starts_BT=STARTS)
    return chunks_of(segment_of(tokens_BT) if whole else segment, size)


def steps(*rows: torch.Tensor, whole: bool = False) -> Any:
    """Yield row, place, whether a document starts there, and what the rows have there."""
    for b in range(B):
        for t in range(T if whole else LENGTHS[b]):
            is_new = not whole and STARTS[b, t].item() == t
            yield b, t, is_new, tuple(row[b, :, t] for row in rows)
