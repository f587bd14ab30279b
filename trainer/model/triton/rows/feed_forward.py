"""Bias, ReLU and dropout between the matrices of a feed-forward layer, in one pass, in Triton.

Rows are padded as in `trainer.model.triton.rows.norm`: the first `width` of P stored columns count.

R rows and C columns of the tile that a program holds · N rows · P stored columns · F width.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.model.triton.rows.dropout import dropout_scale
from trainer.model.triton.rows.tiles import load_counted, wide

_ROWS, _MAX_COLUMNS = 16, 256
#: How many tiles a program of the backward pass adds to one partial sum.
_N_TILES = 4


def bias_relu_dropout(
    x_NP: Tensor, bias_F: Tensor, *, width: int, dropout: float = 0.0, seed: Tensor | None = None
) -> Tensor:
    """Return `dropout(relu(x + bias))` in the first `width` columns, zero in the others.

    Args:
        x_NP: the product of the first matrix, `[..., P]`; the result has its shape and dtype.
        bias_F: the bias of the first layer, `[width]`, in any floating dtype.
        width: the number of columns that count.
        dropout: probability of dropping an element.
        seed: one int64 on the device, of this place and step alone; None without dropout.
    """
    assert dropout == 0 or seed is not None, "dropout takes a seed"
    seed = seed if dropout > 0 else None
    out: Tensor = _BiasReluDropout.apply(x_NP, bias_F, seed, width, dropout)
    return out


class _BiasReluDropout(torch.autograd.Function):
    """A function that keeps only its output, which is positive exactly where a gradient passes."""

    @staticmethod
    def forward(
        ctx: Any, x_NP: Tensor, bias_F: Tensor, seed: Tensor | None, width: int, dropout: float
    ) -> Tensor:
        """Return `[..., P]`, as `x_NP` is."""
        x_NP = x_NP.contiguous()
        out_NP = torch.empty_like(x_NP)
        sizes = _sizes(x_NP)
        grid = _grid(sizes, n_tiles=1)
        _forward_kernel[grid](x_NP, bias_F, seed, out_NP, width, dropout, **sizes)
        ctx.save_for_backward(out_NP)
        ctx.settings = width, dropout
        return out_NP

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of `x_NP` and the bias."""
        (out_NP,) = ctx.saved_tensors
        d_out_NP = grads[0].contiguous()
        d_x_NP = torch.empty_like(d_out_NP)
        sizes = _sizes(out_NP)
        grid = _grid(sizes, n_tiles=_N_TILES)
        dtype = torch.promote_types(out_NP.dtype, torch.float32)
        partial = out_NP.new_empty(grid[0], ctx.settings[0], dtype=dtype)
        _backward_kernel[grid](
            out_NP, d_out_NP, d_x_NP, partial, *ctx.settings, **sizes, TILES=_N_TILES
        )
        return d_x_NP, partial.sum(0), None, None, None


def _sizes(x_NP: Tensor) -> dict[str, Any]:
    """Return how rows `[..., P]` are cut into tiles, and the type to compute in."""
    n_stored = x_NP.shape[-1]
    n_columns = min(_MAX_COLUMNS, max(16, triton.next_power_of_2(n_stored)))
    return {
        "n_rows": x_NP.numel() // n_stored,
        "PITCH": n_stored,
        "ROWS": _ROWS,
        "COLUMNS": n_columns,
        "WIDE": wide(x_NP),
    }


def _grid(sizes: dict[str, Any], *, n_tiles: int) -> tuple[int, int]:
    n_row_programs = triton.cdiv(sizes["n_rows"], sizes["ROWS"] * n_tiles)
    return n_row_programs, triton.cdiv(sizes["PITCH"], sizes["COLUMNS"])


@triton.jit
def _forward_kernel(
    x,
    bias_F,
    seed,
    out,
    width,
    dropout,
    n_rows,
    PITCH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Write `dropout(relu(x + bias))` of a tile of rows."""
    first_column = tl.program_id(1) * COLUMNS
    row_R1 = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    column_1C = first_column + tl.arange(0, COLUMNS)[None, :]
    at_RC = row_R1 * PITCH + column_1C
    stored_RC = (row_R1 < n_rows) & (column_1C < PITCH)
    value_RC = load_counted(x, at_RC, stored_RC, column_1C < width, WIDE)
    value_RC += tl.load(bias_F + column_1C, mask=column_1C < width, other=0.0).to(WIDE)
    # Not `tl.maximum`, which would turn NaN into zero and so hide it.
    value_RC = tl.where(value_RC < 0, 0.0, value_RC)
    if seed is not None:
        value_RC *= dropout_scale(seed, dropout, row_R1, first_column, PITCH, ROWS, COLUMNS)
    tl.store(out + at_RC, value_RC, mask=stored_RC)


@triton.jit
def _backward_kernel(
    out,
    d_out,
    d_x,
    partial,
    width,
    dropout,
    n_rows,
    PITCH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
    TILES: tl.constexpr,
):
    """Write the gradient of `x` for some tiles, and their sum for the bias."""
    program = tl.program_id(0).to(tl.int64)
    column_C = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    column_1C = column_C[None, :]
    d_bias_RC = tl.zeros((ROWS, COLUMNS), WIDE)
    for tile in range(TILES):
        row_R1 = ((program * TILES + tile) * ROWS + tl.arange(0, ROWS))[:, None]
        at_RC = row_R1 * PITCH + column_1C
        stored_RC = (row_R1 < n_rows) & (column_1C < PITCH)
        out_RC = tl.load(out + at_RC, mask=stored_RC, other=0.0)
        d_RC = load_counted(d_out, at_RC, stored_RC, column_1C < width, WIDE)
        d_RC = tl.where(out_RC > 0, d_RC / (1.0 - dropout), 0.0)
        tl.store(d_x + at_RC, d_RC, mask=stored_RC)
        d_bias_RC += d_RC
    d_bias_C = tl.sum(d_bias_RC, axis=0)
    tl.store(partial + program * width + column_C, d_bias_C, mask=column_C < width)
