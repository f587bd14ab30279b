"""Tiles into which kernels cut rows, and how they are loaded, in Triton.

R rows and C columns of the tile that a program holds · P stored columns.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Elements of a tile: as many as the threads of a program hold in registers.
_TILE = 1024


def tiles(x: Tensor) -> dict[str, Any]:
    """Return how rows `[..., P]` are cut into tiles, and the type to compute in."""
    n_stored = x.shape[-1]
    n_columns = max(16, triton.next_power_of_2(n_stored))
    return {
        "n_rows": x.numel() // n_stored,
        "PITCH": n_stored,
        "ROWS": max(1, _TILE // n_columns),
        "COLUMNS": n_columns,
        "WIDE": wide(x),
        "num_warps": 4 if n_columns <= 2 * _TILE else 8,
    }


def wide(x: Tensor) -> tl.dtype:
    """Return the type in which sums over elements of `x` are computed."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


@triton.jit
def load_counted(tensor, at_RC, stored_RC, counts_1C, WIDE: tl.constexpr):
    """Load a tile in `WIDE`, with zeros in the columns that do not count.

    All stored columns are loaded: only an aligned border lets a load take eight elements at a time.
    """
    value_RC = tl.load(tensor + at_RC, mask=stored_RC, other=0.0).to(WIDE)
    return tl.where(counts_1C, value_RC, 0.0)
