"""Residual connection, its dropout and LayerNorm in one pass over each row, in Triton.

Rows are padded: of P stored columns the first `width` count. The others are not used; values and
gradients are zero there. Statistics and sums are in fp32 at least. Only the inputs are kept for the
backward pass: to normalise a row again in registers is cheaper than to store and load the result.

R rows and C columns of the tile that a program holds · N rows · P stored columns · D width.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.model.triton.rows.dropout import dropout_scale
from trainer.model.triton.rows.tiles import load_counted, tiles

#: How many tiles a program of the backward pass adds to one partial sum.
_N_TILES = 8


def residual_norm(
    x: Tensor,
    branch: Tensor,
    weight_D: Tensor,
    bias_D: Tensor,
    *,
    branch_bias_D: Tensor | None = None,
    width: int,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    eps: float = 1e-5,
    narrow: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Return LayerNorm of `x + dropout(branch + branch_bias)` over `width` columns, `[..., P]`.

    The second result is the first in the dtype `narrow`, in which products are computed.

    Args:
        x: `[..., P]`; the result has the same dtype.
        branch: `[..., P]`, the sublayer's output for `x`.
        weight_D: the norm's weight, `[width]`, in any floating dtype.
        bias_D: the norm's bias, `[width]`.
        branch_bias_D: the bias of the sublayer's last product, `[width]`; None if it has none.
        width: the number of columns that count.
        dropout: probability of dropping an element of `branch`.
        seed: one int64 on the device, of this place and step alone; None without dropout. The
            backward pass reads it again.
        eps: added to the variance.
        narrow: None is the dtype of `x`: both results are the same tensor then.
    """
    other = None if narrow == x.dtype else narrow
    tensors = (x, branch, branch_bias_D, weight_D, bias_D, seed)
    out, narrow_out = _apply(*tensors, width, dropout, eps, other)
    return out, out if narrow_out is None else narrow_out


def norm(x: Tensor, weight_D: Tensor, bias_D: Tensor, *, width: int, eps: float = 1e-5) -> Tensor:
    """Return LayerNorm of `x` over the first `width` columns; arguments as in `residual_norm`."""
    return _apply(x, None, None, weight_D, bias_D, None, width, 0.0, eps)[0]


def residual(
    x: Tensor,
    branch: Tensor,
    *,
    branch_bias_D: Tensor | None = None,
    width: int,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """Return `x + dropout(branch + branch_bias)` in the first `width` columns.

    The arguments are those of `residual_norm`.
    """
    return _apply(x, branch, branch_bias_D, None, None, seed, width, dropout, 0.0)[0]


def _apply(
    x: Tensor,
    branch: Tensor | None,
    branch_bias_D: Tensor | None,
    weight_D: Tensor | None,
    bias_D: Tensor | None,
    seed: Tensor | None,
    width: int,
    dropout: float,
    eps: float,
    narrow: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    assert dropout == 0 or seed is not None, "dropout takes a seed"
    tensors = (x, branch, branch_bias_D, weight_D, bias_D, seed if dropout > 0 else None)
    made: tuple[Tensor, Tensor | None] = _ResidualNorm.apply(*tensors, width, dropout, eps, narrow)
    return made


class _ResidualNorm(torch.autograd.Function):
    """A sum and a LayerNorm; None as branch leaves out the sum, None as weight the norm."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        branch: Tensor | None,
        branch_bias_D: Tensor | None,
        weight_D: Tensor | None,
        bias_D: Tensor | None,
        seed: Tensor | None,
        width: int,
        dropout: float,
        eps: float,
        narrow: torch.dtype | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return `[..., P]`, as `x` is, and the same in the dtype `narrow`."""
        ctx.set_materialize_grads(False)
        x = x.contiguous()
        branch = None if branch is None else branch.contiguous()
        out = torch.empty_like(x)
        narrow_out = None if narrow is None else torch.empty_like(x, dtype=narrow)
        sizes = tiles(x)
        tensors = (x, branch, branch_bias_D, weight_D, bias_D, seed, out, narrow_out)
        _forward_kernel[(triton.cdiv(sizes["n_rows"], sizes["ROWS"]),)](
            *tensors, width, dropout, eps, **sizes
        )
        inputs = (x, branch) if weight_D is not None else (None, None)
        ctx.save_for_backward(*inputs, branch_bias_D, weight_D, seed)
        ctx.settings = width, dropout, eps
        ctx.branch_dtype = None if branch is None else branch.dtype
        return out, narrow_out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return gradients of `x`, the branch and its bias, the weight and the bias."""
        x, branch, branch_bias_D, weight_D, seed = ctx.saved_tensors
        arrived = [grad.contiguous() for grad in grads if grad is not None]
        d_out, d_narrow = arrived[0], arrived[1] if len(arrived) == 2 else None
        d_x = torch.empty_like(d_out)
        d_branch = None if seed is None else torch.empty_like(d_out, dtype=ctx.branch_dtype)
        sizes = tiles(d_out)
        n_programs = triton.cdiv(sizes["n_rows"], sizes["ROWS"] * _N_TILES)
        partial = None
        if n_sums := (2 if weight_D is not None else 0) + (branch_bias_D is not None):
            partial = d_out.new_empty(
                n_sums,
                n_programs,
                ctx.settings[0],
                dtype=torch.promote_types(d_out.dtype, torch.float32),
            )
        _backward_kernel[(n_programs,)](
            x,
            branch,
            branch_bias_D,
            weight_D,
            seed,
            d_out,
            d_narrow,
            d_x,
            d_branch,
            partial,
            *ctx.settings,
            **sizes,
            TILES=_N_TILES,
        )
        # Autograd converts a gradient to the dtype of its tensor.
        if d_branch is None and ctx.branch_dtype is not None:
            d_branch = d_x
        sums = [] if partial is None else list(partial.sum(1))
        d_branch_bias_D = None if branch_bias_D is None else sums.pop()
        return d_x, d_branch, d_branch_bias_D, *(sums or (None, None)), *[None] * 5


@triton.jit
def _forward_kernel(
    x,
    branch,
    branch_bias_D,
    weight_D,
    bias_D,
    seed,
    out,
    narrow_out,
    width,
    dropout,
    eps,
    n_rows,
    PITCH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Write the result of some rows: their total, normalised if there is a weight."""
    row_R1 = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    column_1C = tl.arange(0, COLUMNS)[None, :]
    at_RC = row_R1 * PITCH + column_1C
    stored_RC = (row_R1 < n_rows) & (column_1C < PITCH)
    scale_RC = 1.0
    if seed is not None:
        scale_RC = dropout_scale(seed, dropout, row_R1, 0, PITCH, ROWS, COLUMNS)
    value_RC = _total(x, branch, branch_bias_D, scale_RC, at_RC, stored_RC, column_1C, width, WIDE)
    if weight_D is not None:
        value_RC, _ = _normalised(value_RC, column_1C < width, width, eps)
        weight_1C = tl.load(weight_D + column_1C, mask=column_1C < width, other=0.0)
        bias_1C = tl.load(bias_D + column_1C, mask=column_1C < width, other=0.0)
        value_RC = value_RC * weight_1C.to(WIDE) + bias_1C.to(WIDE)
        value_RC = tl.where(column_1C < width, value_RC, 0.0)
    tl.store(out + at_RC, value_RC, mask=stored_RC)
    if narrow_out is not None:
        tl.store(narrow_out + at_RC, value_RC, mask=stored_RC)


@triton.jit
def _backward_kernel(
    x,
    branch,
    branch_bias_D,
    weight_D,
    seed,
    d_out,
    d_narrow,
    d_x,
    d_branch,
    partial,
    width,
    dropout,
    eps,
    n_rows,
    PITCH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
    TILES: tl.constexpr,
):
    """Write the gradients of some tiles of rows, and their sums for weight and biases."""
    program = tl.program_id(0).to(tl.int64)
    column_1C = tl.arange(0, COLUMNS)[None, :]
    if weight_D is not None:
        weight_1C = tl.load(weight_D + column_1C, mask=column_1C < width, other=0.0).to(WIDE)
    d_weight_RC = tl.zeros((ROWS, COLUMNS), WIDE)
    d_bias_RC = tl.zeros((ROWS, COLUMNS), WIDE)
    d_branch_bias_RC = tl.zeros((ROWS, COLUMNS), WIDE)
    for tile in range(TILES):
        row_R1 = ((program * TILES + tile) * ROWS + tl.arange(0, ROWS))[:, None]
        at_RC = row_R1 * PITCH + column_1C
        stored_RC = (row_R1 < n_rows) & (column_1C < PITCH)
        d_RC = load_counted(d_out, at_RC, stored_RC, column_1C < width, WIDE)
        if d_narrow is not None:
            d_RC += load_counted(d_narrow, at_RC, stored_RC, column_1C < width, WIDE)
        scale_RC = 1.0
        if seed is not None:
            scale_RC = dropout_scale(seed, dropout, row_R1, 0, PITCH, ROWS, COLUMNS)
        if weight_D is not None:
            total_RC = _total(
                x, branch, branch_bias_D, scale_RC, at_RC, stored_RC, column_1C, width, WIDE
            )
            normal_RC, rstd_R1 = _normalised(total_RC, column_1C < width, width, eps)
            d_weight_RC += d_RC * normal_RC
            d_bias_RC += d_RC
            d_RC *= weight_1C
            along_R1 = tl.sum(d_RC * normal_RC, axis=1)[:, None] / width
            mean_R1 = tl.sum(d_RC, axis=1)[:, None] / width
            d_RC = (d_RC - normal_RC * along_R1 - mean_R1) * rstd_R1
            d_RC = tl.where(column_1C < width, d_RC, 0.0)
        tl.store(d_x + at_RC, d_RC, mask=stored_RC)
        if branch_bias_D is not None:
            d_branch_bias_RC += d_RC * scale_RC
        if d_branch is not None:
            tl.store(d_branch + at_RC, d_RC * scale_RC, mask=stored_RC)
    column_C = tl.arange(0, COLUMNS)
    at_C = program * width + column_C
    if weight_D is not None:
        tl.store(partial + at_C, tl.sum(d_weight_RC, axis=0), mask=column_C < width)
        at_C += tl.num_programs(0).to(tl.int64) * width
        tl.store(partial + at_C, tl.sum(d_bias_RC, axis=0), mask=column_C < width)
        at_C += tl.num_programs(0).to(tl.int64) * width
    if branch_bias_D is not None:
        tl.store(partial + at_C, tl.sum(d_branch_bias_RC, axis=0), mask=column_C < width)


@triton.jit
def _total(
    x, branch, branch_bias_D, scale_RC, at_RC, stored_RC, column_1C, width, WIDE: tl.constexpr
):  # fmt: skip
    total_RC = load_counted(x, at_RC, stored_RC, column_1C < width, WIDE)
    if branch is not None:
        branch_RC = load_counted(branch, at_RC, stored_RC, column_1C < width, WIDE)
        if branch_bias_D is not None:
            branch_RC += tl.load(branch_bias_D + column_1C, column_1C < width, other=0.0).to(WIDE)
        total_RC += branch_RC * scale_RC
    return total_RC


@triton.jit
def _normalised(x_RC, counts_1C, width, eps):
    mean_R1 = tl.sum(x_RC, axis=1)[:, None] / width
    centred_RC = tl.where(counts_1C, x_RC - mean_R1, 0.0)
    variance_R1 = tl.sum(centred_RC * centred_RC, axis=1)[:, None] / width
    rstd_R1 = 1.0 / tl.sqrt(variance_R1 + eps)
    return centred_RC * rstd_R1, rstd_R1
