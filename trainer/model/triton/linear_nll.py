"""Nats of words under a softmax over linear logits, on a GPU.

The gradient of the logits takes their place, and the backward pass multiplies with it. All rows
are computed at once, in aligned rows.

N positions · C width · P width with its pad, see `alignment` · V words.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.model.adaptive import Table
from trainer.model.backend import compute_dtype
from trainer.model.tied_embedding import Handoff
from trainer.model.triton.alignment import ALIGNMENT, aligned, stored
from trainer.model.triton.copies import computed
from trainer.model.triton.products import multiply
from trainer.model.triton.rows.softmax import softmax_error_

#: Elements of a table that are copied at a time, if the table is unaligned or of another dtype.
_BLOCK_WEIGHTS = 1 << 23
#: The factor of the errors in fp16, in which the tiny error of one word among many would be lost.
_FP16_SCALE = 256.0


def fused_linear_nll(
    hidden_NC: Tensor, targets_N: Tensor, tables: Sequence[Table], *, handoff: Handoff, cluster: int
) -> Tensor:
    """Return the nats of each target, `[N]` in fp32 at least; 0 where it is `IGNORED`.

    The arguments are those of `trainer.model.cpu.linear_nll.linear_nll`.
    """
    flat = [tensor for table in tables for tensor in table]
    dtype = compute_dtype(hidden_NC)
    values = [computed(weight) for weight, _ in tables]
    with torch.autocast(hidden_NC.device.type, enabled=False):
        nll_N: Tensor = _FusedLinearNll.apply(  # type: ignore[no-untyped-call]
            hidden_NC, targets_N, values, dtype, torch.is_grad_enabled(), handoff, cluster, *flat
        )
    return nll_N


class _FusedLinearNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        targets_N: Tensor,
        values: Sequence[Tensor],
        dtype: torch.dtype,
        keep: bool,
        handoff: Handoff,
        cluster: int,
        *tables: Tensor,
    ) -> Tensor:
        """Return the nats of each target, `[N]`.

        `values` are the weights of the tables as they are to be computed with, or copies; `keep`
        says whether a backward pass may follow.
        """
        hidden_NP, biases = aligned(hidden_NC.to(dtype)), tables[1::2]
        n_words = sum(map(len, biases))
        error_NV = hidden_NP.new_empty(len(hidden_NP), stored(n_words))
        for table, rows, words in _pieces(values, dtype):
            weight_WP, bias_W = aligned(values[table][rows].to(dtype)), biases[table][rows]
            torch.addmm(bias_W.to(dtype), hidden_NP, weight_WP.t(), out=error_NV[:, words])
        scale = _FP16_SCALE if dtype == torch.float16 else 1.0
        nll_N = softmax_error_(error_NV, targets_N, n_words=n_words, keep=keep, scale=scale)
        if keep:
            ctx.save_for_backward(hidden_NP, error_NV, *tables)
        ctx.handoff, ctx.cluster, ctx.scale, ctx.values = handoff, cluster, scale, values
        ctx.width, ctx.hidden_dtype = hidden_NC.shape[1], hidden_NC.dtype
        return nll_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of the hidden states, then of each table's weight and bias."""
        hidden_NP, error_NV, *tables = ctx.saved_tensors
        scale_N1, dtype = (grads[0] / ctx.scale)[:, None], hidden_NP.dtype
        scaled_NP, narrow_N1 = (hidden_NP * scale_N1).to(dtype), scale_N1.to(dtype)
        grad_NP = torch.zeros_like(hidden_NP, dtype=scale_N1.dtype)
        of_tables: list[Any] = [torch.empty_like(tensor) for tensor in tables]
        of_weights, of_biases = of_tables[::2], of_tables[1::2]
        for table, rows, words in _pieces(ctx.values, dtype):
            error_NW = error_NV[:, words]
            grad_NP += error_NW @ aligned(ctx.values[table][rows].to(dtype))
            of_biases[table][rows] = (error_NW.t() @ narrow_N1)[:, 0]
            multiply(error_NW.t(), scaled_NP, out=of_weights[table][rows])
        of_tables[0] = ctx.handoff.put(ctx.cluster, of_tables[0])
        grad_NC = (grad_NP * scale_N1)[:, : ctx.width].to(ctx.hidden_dtype)
        return grad_NC, *[None] * 6, *of_tables


def _fits(weight_VC: Tensor, dtype: torch.dtype) -> bool:
    """Return whether a product takes a table without a copy."""
    return weight_VC.dtype == dtype and weight_VC.shape[1] % ALIGNMENT == 0


def _pieces(weights: Sequence[Tensor], dtype: torch.dtype) -> Iterator[tuple[int, slice, slice]]:
    """Yield the words computed at a time: their table, its rows, and their place among all words.

    A table that needs a copy is copied piece by piece: the tables are most of a model.
    """
    first = 0
    for table, weight_VC in enumerate(weights):
        n_words, width = weight_VC.shape
        n_rows = n_words if _fits(weight_VC, dtype) else stored(_BLOCK_WEIGHTS // width)
        for low in range(0, n_words, n_rows):
            rows = slice(low, min(low + n_rows, n_words))
            yield table, rows, slice(first + rows.start, first + rows.stop)
        first += n_words
