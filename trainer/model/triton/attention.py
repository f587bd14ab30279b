"""Relative attention on a GPU, from position scores before rel_shift.

The softmax runs over blocks of keys (Dao 2023, FlashAttention-2): weights are never stored. No
kernel uses atomics, so a run repeats bit by bit. No kernel waits for the host, and no size depends
on data, so a pass can be captured in a CUDA graph.

B streams · T tgt_len · M mem_len · S = M+T · H heads · E d_head.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from trainer.model.triton import attention_kernels as kernels


@dataclass(frozen=True)
class Blocks:
    """Sizes of a kernel's blocks; `q` queries and `k` keys are powers of two, 16 at least."""

    q: int
    k: int
    num_warps: int
    num_stages: int


def fused_attention(
    query_BTHE: Tensor,
    kv_BS2HE: Tensor,
    position_BHTS: Tensor,
    *,
    visible_from_BT: Tensor | None,
    dropout: float,
    seed: Tensor | None,
    blocks: Blocks | None = None,
) -> Tensor:
    """Return softmax(query·key + rel_shift(position)) over the visible keys, times the values.

    The first three arguments share a dtype, which autocast does not change. They may have any
    strides, and are copied only if the last one is not 1. Gradients are contiguous, except that of
    `position_BHTS`: it has the strides of `position_BHTS`, and is zero for keys not seen.

    Args:
        query_BTHE: (q+u) / √E.
        kv_BS2HE: keys and values of memory and segment, from their joint projection.
        position_BHTS: (q+v)·r / √E before rel_shift: columns are the distances S-1 … 0. Columns
            after these pad the rows and are not read.
        visible_from_BT: query i sees key j iff visible_from <= j <= i + M, and at least one key;
            int32 or int64, also `[1, T]`. None means 0.
        dropout: probability of dropping an attention weight.
        seed: one int64 on the device; with a weight's place it decides whether the weight is
            dropped. The backward pass reads it again. None without dropout.
        blocks: block sizes, which change no more than rounding.

    Returns:
        `[B, T, H, E]`, contiguous.
    """
    assert dropout == 0 or seed is not None, "dropout needs a seed"
    inputs = (query_BTHE, kv_BS2HE, position_BHTS)
    if visible_from_BT is not None:
        visible_from_BT = visible_from_BT.expand(query_BTHE.shape[:2])
    out_BTHE: Tensor = _FusedAttention.apply(  # type: ignore[no-untyped-call]
        *(x if x.stride(-1) == 1 else x.contiguous() for x in inputs),
        visible_from_BT,
        seed if dropout > 0 else None,
        dropout,
        blocks or default_blocks(query_BTHE.shape[-1], query_BTHE.dtype),
    )
    return out_BTHE


def default_blocks(d_head: int, dtype: torch.dtype) -> Blocks:
    """Return blocks that compile for an A100 and an H100 with hardly a register spilled."""
    wide_head = d_head > 128
    if dtype.itemsize > 2:
        return Blocks(q=16 if wide_head else 32, k=16, num_warps=8, num_stages=1)
    if d_head <= 64:
        return Blocks(q=64, k=32, num_warps=4, num_stages=2)
    return Blocks(q=32 if wide_head else 64, k=32, num_warps=8, num_stages=1)


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_BTHE: Tensor,
        kv_BS2HE: Tensor,
        position_BHTS: Tensor,
        visible_from_BT: Tensor | None,
        seed: Tensor | None,
        dropout: float,
        blocks: Blocks,
    ) -> Tensor:
        """Attend; keep the logarithms of the softmax's sums, which give the weights again."""
        inputs = (query_BTHE, kv_BS2HE, position_BHTS, visible_from_BT, seed)
        n_streams, tgt_len, n_head, d_head = query_BTHE.shape
        wide = torch.promote_types(query_BTHE.dtype, torch.float32)
        out_BTHE = query_BTHE.new_empty(query_BTHE.shape)
        log_sum_BHT = query_BTHE.new_empty((n_streams, n_head, tgt_len), dtype=wide)
        kernels.forward[triton.cdiv(tgt_len, blocks.q), n_head, n_streams](
            *_arguments(*inputs, dropout=dropout),
            log_sum_BHT,
            out_BTHE,
            **_constants(blocks, d_head),
        )
        ctx.save_for_backward(*inputs, log_sum_BHT, out_BTHE)
        ctx.dropout, ctx.blocks = dropout, blocks
        return out_BTHE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Run a kernel over blocks of queries, then one over blocks of keys.

        The first also writes each query's `delta`, which the second reads.
        """
        *inputs, log_sum_BHT, out_BTHE = ctx.saved_tensors
        _, kv_BS2HE, position_BHTS, _, _ = inputs
        n_streams, tgt_len, n_head, d_head = out_BTHE.shape
        blocks: Blocks = ctx.blocks
        arguments = (*_arguments(*inputs, dropout=ctx.dropout), log_sum_BHT)
        constants = _constants(blocks, d_head)
        d_out_BTHE = grads[0].contiguous()
        delta_BHT, d_query_BTHE = torch.empty_like(log_sum_BHT), torch.empty_like(out_BTHE)
        d_position_BHTS = torch.empty_like(position_BHTS)
        d_position_BHTS[..., kv_BS2HE.shape[1] :].zero_()
        d_kv_BS2HE = kv_BS2HE.new_empty(kv_BS2HE.shape)
        kernels.backward_by_query[triton.cdiv(tgt_len, blocks.q), n_head, n_streams](
            *arguments,
            out_BTHE,
            d_out_BTHE,
            delta_BHT,
            d_query_BTHE,
            d_position_BHTS,
            *d_position_BHTS.stride()[:3],
            **constants,
        )
        kernels.backward_by_key[triton.cdiv(kv_BS2HE.shape[1], blocks.k), n_head, n_streams](
            *arguments, d_out_BTHE, delta_BHT, d_kv_BS2HE, **constants
        )
        return d_query_BTHE, d_kv_BS2HE, d_position_BHTS, None, None, None, None


def _arguments(
    query_BTHE: Tensor,
    kv_BS2HE: Tensor,
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
        kv_BS2HE,
        *kv_BS2HE.stride()[:4],
        position_BHTS,
        *position_BHTS.stride()[:3],
        visible_from_BT,
        *visible_strides,
        seed,
        dropout,
        query_BTHE.shape[1],
        kv_BS2HE.shape[1],
        query_BTHE.shape[3],
    )


def _constants(blocks: Blocks, d_head: int) -> dict[str, int]:
    return {
        "BLOCK_Q": blocks.q,
        "BLOCK_K": blocks.k,
        "BLOCK_E": max(16, triton.next_power_of_2(d_head)),
        "num_warps": blocks.num_warps,
        "num_stages": blocks.num_stages,
    }
