"""The two queries of relative attention, one with each bias, in one pass over the rows, in Triton.

R rows and C columns of the tile that a program holds · B streams · T tgt_len · N queries (B·T) ·
H heads · E d_head with its pad.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.model.triton.rows.tiles import tiles

#: How many tiles a program of the backward pass adds to one partial sum.
_N_TILES = 8


def biased_queries(
    q_BTX: Tensor, content_bias_HE: Tensor, position_bias_HE: Tensor, *, scale: float
) -> tuple[Tensor, Tensor]:
    """Return `(q + u)·scale`, `[B, T, H, E]`, and `(q + v)·scale`, `[H, N, E]`: heads come first.

    Args:
        q_BTX: queries, the heads of each side by side.
        content_bias_HE: the paper's u, in any floating dtype.
        position_bias_HE: the paper's v, likewise.
        scale: of both results.
    """
    made: tuple[Tensor, Tensor] = _BiasedQueries.apply(
        q_BTX, content_bias_HE, position_bias_HE, scale
    )
    return made


class _BiasedQueries(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BTX: Tensor, u_HE: Tensor, v_HE: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Add and scale in fp32 at least."""
        n_head, d_head = u_HE.shape
        q_BTX = q_BTX.contiguous()
        sizes = {**tiles(q_BTX), "D_HEAD": d_head}
        content_BTHE = q_BTX.new_empty(*q_BTX.shape[:-1], n_head, d_head)
        position_HNE = q_BTX.new_empty(n_head, sizes["n_rows"], d_head)
        _bias_kernel[(triton.cdiv(sizes["n_rows"], sizes["ROWS"]),)](
            q_BTX,
            u_HE.contiguous(),
            v_HE.contiguous(),
            content_BTHE,
            position_HNE,
            scale,
            **sizes,
        )
        ctx.shape, ctx.sizes, ctx.scale = q_BTX.shape, sizes, scale
        return content_BTHE, position_HNE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the queries, and each bias's summed over the queries."""
        d_content_BTHE, d_position_HNE = (grad.contiguous() for grad in grads)
        sizes, (n_head, _, d_head) = ctx.sizes, d_position_HNE.shape
        d_q_BTX = d_content_BTHE.new_empty(ctx.shape)
        n_programs = triton.cdiv(sizes["n_rows"], sizes["ROWS"] * _N_TILES)
        dtype = torch.promote_types(d_q_BTX.dtype, torch.float32)
        partial = d_q_BTX.new_empty(2, n_programs, n_head * d_head, dtype=dtype)
        _bias_backward_kernel[(n_programs,)](
            d_content_BTHE, d_position_HNE, d_q_BTX, partial, ctx.scale, **sizes, TILES=_N_TILES
        )
        d_u_HE, d_v_HE = partial.sum(1).view(2, n_head, d_head)
        return d_q_BTX, d_u_HE, d_v_HE, None


@triton.jit
def _bias_kernel(
    q,
    u,
    v,
    content,
    position,
    scale,
    n_rows,
    PITCH: tl.constexpr,
    D_HEAD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Write the queries of some rows with either bias, scaled."""
    row_R1 = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    column_1C = tl.arange(0, COLUMNS)[None, :]
    inside_RC = (row_R1 < n_rows) & (column_1C < PITCH)
    at_RC = row_R1 * PITCH + column_1C
    q_RC = tl.load(q + at_RC, mask=inside_RC, other=0.0).to(WIDE)
    u_1C = tl.load(u + column_1C, mask=column_1C < PITCH, other=0.0).to(WIDE)
    v_1C = tl.load(v + column_1C, mask=column_1C < PITCH, other=0.0).to(WIDE)
    tl.store(content + at_RC, (q_RC + u_1C) * scale, mask=inside_RC)
    at_RC = heads_first(row_R1, column_1C, n_rows, D_HEAD)
    tl.store(position + at_RC, (q_RC + v_1C) * scale, mask=inside_RC)


@triton.jit
def _bias_backward_kernel(
    d_content,
    d_position,
    d_q,
    partial,
    scale,
    n_rows,
    PITCH: tl.constexpr,
    D_HEAD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
    TILES: tl.constexpr,
):
    """Write the queries' gradient for some tiles, and its sums for both biases."""
    program = tl.program_id(0).to(tl.int64)
    column_1C = tl.arange(0, COLUMNS)[None, :]
    d_u_RC = tl.zeros((ROWS, COLUMNS), WIDE)
    d_v_RC = tl.zeros((ROWS, COLUMNS), WIDE)
    for tile in range(TILES):
        row_R1 = ((program * TILES + tile) * ROWS + tl.arange(0, ROWS))[:, None]
        inside_RC = (row_R1 < n_rows) & (column_1C < PITCH)
        at_RC = row_R1 * PITCH + column_1C
        from_RC = heads_first(row_R1, column_1C, n_rows, D_HEAD)
        content_RC = tl.load(d_content + at_RC, mask=inside_RC, other=0.0).to(WIDE) * scale
        position_RC = tl.load(d_position + from_RC, mask=inside_RC, other=0.0).to(WIDE) * scale
        tl.store(d_q + at_RC, content_RC + position_RC, mask=inside_RC)
        d_u_RC += content_RC
        d_v_RC += position_RC
    column_C = tl.arange(0, COLUMNS)
    at_C = program * PITCH + column_C
    tl.store(partial + at_C, tl.sum(d_u_RC, axis=0), mask=column_C < PITCH)
    at_C += tl.num_programs(0).to(tl.int64) * PITCH
    tl.store(partial + at_C, tl.sum(d_v_RC, axis=0), mask=column_C < PITCH)


@triton.jit
def heads_first(row_R1, column_1C, n_rows, D_HEAD: tl.constexpr):
    """Return the places of a tile's elements in `[H, N, E]`."""
    return (column_1C // D_HEAD * n_rows + row_R1) * D_HEAD + column_1C % D_HEAD
