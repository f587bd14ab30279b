"""Relative attention on a GPU, from position scores before rel_shift.

The softmax runs over blocks of keys (Dao 2023, FlashAttention-2): weights are never stored. No
kernel uses atomics, so a run repeats bit by bit. No kernel waits for the host, and no size depends
on data, so a pass can be captured in a CUDA graph.

B streams · T tgt_len · M mem_len · S = M+T · H heads · E d_head.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from trainer.model.triton import attention_kernels as kernels

#: Elements by which rows must be aligned for loads of 16 bytes, of 16 bits each or wider.
_ALIGN = 8


@dataclass(frozen=True)
class Blocks:
    """Sizes of a kernel's blocks; `q` queries and `k` keys are powers of two, 16 at least."""

    q: int
    k: int
    num_warps: int
    num_stages: int


class Cut(NamedTuple):
    """The blocks of each kernel, which change no more than rounding."""

    forward: Blocks
    by_query: Blocks
    by_key: Blocks


def fused_attention(
    query_BTHE: Tensor,
    old_BM2HE: Tensor,
    new_BT2HE: Tensor,
    position_BHTS: Tensor,
    *,
    visible_from_BT: Tensor | None,
    dropout: float,
    seed: Tensor | None,
    cut: Cut | None = None,
) -> Tensor:
    """Return softmax(query·key + rel_shift(position)) over the visible keys, times the values.

    The first four arguments share a dtype, which autocast does not change. They may have any
    strides, and are copied only if the last one is not 1. Gradients are contiguous, except that of
    `position_BHTS`: it has the strides of `position_BHTS`, and is zero for keys not seen.

    Args:
        query_BTHE: (q+u) / √E.
        old_BM2HE: keys and values of memory, from their joint projection.
        new_BT2HE: keys and values of the segment.
        position_BHTS: (q+v)·r / √E before rel_shift: columns are the distances S-1 … 0. Columns
            after these pad the rows and are not read.
        visible_from_BT: query i sees key j iff visible_from <= j <= i + M, and at least one key;
            int32 or int64, also `[1, T]`. None means 0.
        dropout: probability of dropping an attention weight.
        seed: one int64 on the device; with a weight's place it decides whether the weight is
            dropped. The backward pass reads it again. None without dropout.
        cut: block sizes, `default_cut` if None.

    Returns:
        `[B, T, H, E]`, contiguous.
    """
    assert dropout == 0 or seed is not None, "dropout needs a seed"
    inputs = (query_BTHE, old_BM2HE, new_BT2HE, position_BHTS)
    if visible_from_BT is not None:
        visible_from_BT = visible_from_BT.expand(query_BTHE.shape[:2])
    out_BTHE: Tensor = _FusedAttention.apply(  # type: ignore[no-untyped-call]
        *(x if x.stride(-1) == 1 else x.contiguous() for x in inputs),
        visible_from_BT,
        seed if dropout > 0 else None,
        dropout,
        cut or default_cut(query_BTHE.shape[-1], query_BTHE.dtype),
    )
    return out_BTHE


def default_cut(d_head: int, dtype: torch.dtype) -> Cut:
    """Return blocks that compile for an A100 and an H100 with hardly a register spilled.

    Those of narrow heads were the fastest on an H200 at the sizes of wt103-base.
    """
    if dtype.itemsize > 2:
        block = Blocks(q=16 if d_head > 128 else 32, k=16, num_warps=8, num_stages=1)
        by_query = replace(block, num_warps=4) if 64 < d_head <= 128 else block
        return Cut(block, by_query, block)
    if d_head <= 64:
        return Cut(
            forward=Blocks(q=64, k=16, num_warps=4, num_stages=3),
            by_query=Blocks(q=64, k=16, num_warps=4, num_stages=3),
            by_key=Blocks(q=64, k=64, num_warps=4, num_stages=1),
        )
    return Cut(*[Blocks(q=32 if d_head > 128 else 64, k=32, num_warps=8, num_stages=1)] * 3)


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_BTHE: Tensor,
        old_BM2HE: Tensor,
        new_BT2HE: Tensor,
        position_BHTS: Tensor,
        visible_from_BT: Tensor | None,
        seed: Tensor | None,
        dropout: float,
        cut: Cut,
    ) -> Tensor:
        """Attend; keep the logarithms of the softmax's sums, which give the weights again."""
        inputs = (query_BTHE, old_BM2HE, new_BT2HE, position_BHTS, visible_from_BT, seed)
        n_streams, tgt_len, n_head, _ = query_BTHE.shape
        wide = torch.promote_types(query_BTHE.dtype, torch.float32)
        out_BTHE = query_BTHE.new_empty(query_BTHE.shape)
        log_sum_BHT = query_BTHE.new_empty((n_streams, n_head, tgt_len), dtype=wide)
        kernels.forward[triton.cdiv(tgt_len, cut.forward.q), n_head, n_streams](
            *_arguments(*inputs, dropout=dropout),
            log_sum_BHT,
            out_BTHE,
            **_constants(cut.forward, *inputs[:3]),
        )
        ctx.save_for_backward(*inputs, log_sum_BHT, out_BTHE)
        ctx.dropout, ctx.cut = dropout, cut
        return out_BTHE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Run a kernel over blocks of queries, then one over blocks of keys.

        The first also writes each query's `delta`, which the second reads.
        """
        *inputs, log_sum_BHT, out_BTHE = ctx.saved_tensors
        _, old_BM2HE, new_BT2HE, position_BHTS, _, _ = inputs
        n_streams, tgt_len, n_head, _ = out_BTHE.shape
        cut: Cut = ctx.cut
        arguments = (*_arguments(*inputs, dropout=ctx.dropout), log_sum_BHT)
        d_out_BTHE = grads[0].contiguous()
        delta_BHT, d_query_BTHE = torch.empty_like(log_sum_BHT), torch.empty_like(out_BTHE)
        d_position_BHTS = torch.empty_like(position_BHTS)
        d_old_BM2HE, d_new_BT2HE = (x.new_empty(x.shape) for x in (old_BM2HE, new_BT2HE))
        n_keys = old_BM2HE.shape[1] + tgt_len
        kernels.backward_by_query[triton.cdiv(tgt_len, cut.by_query.q), n_head, n_streams](
            *arguments,
            out_BTHE,
            d_out_BTHE,
            delta_BHT,
            d_query_BTHE,
            d_position_BHTS,
            *d_position_BHTS.stride()[:3],
            d_position_BHTS.shape[-1],
            **_constants(cut.by_query, *inputs[:3]),
        )
        kernels.backward_by_key[triton.cdiv(n_keys, cut.by_key.k), n_head, n_streams](
            *arguments,
            d_out_BTHE,
            delta_BHT,
            d_old_BM2HE,
            d_new_BT2HE,
            **_constants(cut.by_key, *inputs[:3]),
        )
        return d_query_BTHE, d_old_BM2HE, d_new_BT2HE, d_position_BHTS, None, None, None, None


def _arguments(
    query_BTHE: Tensor,
    old_BM2HE: Tensor,
    new_BT2HE: Tensor,
    position_BHTS: Tensor,
    visible_from_BT: Tensor | None,
    seed: Tensor | None,
    *,
    dropout: float,
) -> tuple[Any, ...]:
    """Return the first arguments of every kernel: inputs followed by their strides, then sizes."""
    visible_strides = (0, 0) if visible_from_BT is None else visible_from_BT.stride()
    return (
        query_BTHE,
        *query_BTHE.stride()[:3],
        old_BM2HE,
        *old_BM2HE.stride()[:4],
        new_BT2HE,
        *new_BT2HE.stride()[:4],
        position_BHTS,
        *position_BHTS.stride()[:3],
        visible_from_BT,
        *visible_strides,
        seed,
        dropout,
        query_BTHE.shape[1],
        old_BM2HE.shape[1] + new_BT2HE.shape[1],
        query_BTHE.shape[3],
    )


def _constants(blocks: Blocks, *rows: Tensor) -> dict[str, int | str]:
    d_head = rows[0].shape[-1]
    strides = (*(stride for x in rows for stride in x.stride()[:-1]), d_head)
    return {
        "ALIGN": 1 if any(stride % _ALIGN for stride in strides) else _ALIGN,
        "BLOCK_Q": blocks.q,
        "BLOCK_K": blocks.k,
        "BLOCK_E": max(16, triton.next_power_of_2(d_head)),
        "PRECISION": "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
        "num_warps": blocks.num_warps,
        "num_stages": blocks.num_stages,
    }
