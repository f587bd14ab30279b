"""Nats of words under a softmax over linear logits, kept for the backward pass as one matrix.

Forward and backward of `F.cross_entropy(F.linear(…))` write the logits, their logarithms and the
gradient, each `[N, V]`. Here a block of rows goes from logits to probabilities while it lies in the
cache, and is what the backward pass multiplies with.

N positions · C width · V words.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from trainer.protocol import IGNORED

#: Logits that are made at a time: what a core's cache holds.
_BLOCK_LOGITS = 1 << 21

Table = tuple[Tensor, Tensor]
"""Weight `[V, C]` and bias `[V]` of some of the words."""


class Handoff:
    """Carries the gradients of tied tables from the softmax to the embedding of the same pass.

    The softmax's backward comes first, with a dense gradient; the embedding adds its few rows to
    that, instead of making a second dense gradient of them.
    """

    def __init__(self) -> None:
        self._grads: dict[int, Tensor] = {}

    def put(self, cluster: int, grad_VC: Tensor) -> None:
        """Leave the gradient of a cluster's table that is about to be given to autograd."""
        self._grads[cluster] = grad_VC

    def take(self, cluster: int) -> Tensor | None:
        """Take it away, if autograd still holds this very tensor.

        It does until all of the table's gradients are there, but not when several passes share one
        backward: then it has added them up in another. Not to hold on to it lets autograd keep it.
        """
        grad_VC: Any = self._grads.pop(cluster, None)
        return grad_VC if grad_VC is not None and grad_VC._use_count() > 1 else None


def linear_nll(
    hidden_NC: Tensor, targets_N: Tensor, tables: Sequence[Table], *,
    handoff: Handoff | None = None, cluster: int = 0,
) -> Tensor:  # fmt: skip
    """Nats of each target, `[N]` in fp32 at least; 0 where it is `IGNORED`.

    Args:
        hidden_NC: what the logits are linear in.
        targets_N: indices into all words of all tables.
        tables: their words follow one another.
        handoff: takes the gradient of the first table's weight.
        cluster: what that table is called there.
    """
    dtype = hidden_NC.dtype
    if torch.is_autocast_enabled(hidden_NC.device.type) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(hidden_NC.device.type)
    flat = [tensor for table in tables for tensor in table]
    with torch.autocast(hidden_NC.device.type, enabled=False):
        nll_N: Tensor = _LinearNll.apply(  # type: ignore[no-untyped-call]
            hidden_NC, targets_N, dtype, torch.is_grad_enabled(), handoff, cluster, *flat
        )
    return nll_N


class _LinearNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NC: Tensor, targets_N: Tensor, dtype: torch.dtype, keep: bool,
        handoff: Handoff | None, cluster: int, *flat: Tensor,
    ) -> Tensor:  # fmt: skip
        """`[N]`; `keep` says whether a backward pass may follow."""
        hidden = hidden_NC.to(dtype)
        weights = [tensor.to(dtype) for tensor in flat[::2]]
        biases = [tensor.to(dtype) for tensor in flat[1::2]]
        borders = [0, *accumulate(len(weight) for weight in weights)]
        n_rows, n_words = len(hidden), borders[-1]
        wide = torch.promote_types(dtype, torch.float32)
        error_NV = hidden.new_empty(n_rows if keep else 0, n_words)
        nll_N: Tensor = hidden.new_empty(n_rows, dtype=wide)
        total_N = torch.ones_like(nll_N)
        known_N = targets_N != IGNORED
        index_N = targets_N.clamp_min(0)
        for rows in _blocks(n_rows, n_words):
            logits = error_NV[rows] if keep and dtype == wide else None
            if logits is None:
                logits = hidden.new_empty(rows.stop - rows.start, n_words)
            for weight, bias, (low, high) in zip(weights, biases, pairwise(borders), strict=True):
                torch.addmm(bias, hidden[rows], weight.t(), out=logits[:, low:high])
            exact = logits.to(wide)
            index = index_N[rows, None]
            exact.sub_(exact.amax(dim=1, keepdim=True))
            chosen = exact.gather(1, index)[:, 0]
            total = exact.exp_().sum(dim=1)
            nll_N[rows] = (total.log() - chosen) * known_N[rows]
            if keep:
                # Times the total, probabilities less one where the target is.
                exact.scatter_add_(1, index, -total[:, None])
                total_N[rows] = total
                if exact is not logits:
                    error_NV[rows] = exact
        ctx.save_for_backward(hidden, error_NV, known_N / total_N, *weights)
        ctx.borders, ctx.handoff, ctx.cluster = borders, handoff, cluster
        ctx.dtypes = hidden_NC.dtype, [tensor.dtype for tensor in flat[::2]]
        return nll_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Of the hidden states, then of each table's weight and bias."""
        hidden, error_NV, share_N, *weights = ctx.saved_tensors
        scale_N1 = (grads[0] * share_N)[:, None]
        hidden_dtype, weight_dtypes = ctx.dtypes
        scaled_NC = (hidden * scale_N1).to(hidden.dtype)
        grad_NC, of_tables = torch.zeros_like(hidden), list[Tensor]()
        parts = zip(weights, weight_dtypes, pairwise(ctx.borders), strict=True)
        for weight, dtype, (low, high) in parts:
            part_NV = error_NV[:, low:high]
            grad_NC.addmm_(part_NV, weight)
            bias_V1 = part_NV.t() @ scale_N1.to(hidden.dtype)
            of_tables += [(part_NV.t() @ scaled_NC).to(dtype), bias_V1[:, 0]]
        if ctx.handoff is not None:
            ctx.handoff.put(ctx.cluster, of_tables[0])
        grad_NC = (grad_NC * scale_N1).to(hidden_dtype)
        return grad_NC, None, None, None, None, None, *of_tables


class TiedEmbedding(torch.autograd.Function):
    """Rows of a table whose gradient the softmax's backward has begun: see `Handoff`."""

    @staticmethod
    def forward(
        ctx: Any, ids_N: Tensor, table_VC: Tensor, handoff: Handoff, cluster: int
    ) -> Tensor:
        """`[N, C]`."""
        ctx.save_for_backward(ids_N)
        ctx.handoff, ctx.cluster, ctx.shape = handoff, cluster, table_VC.shape
        return table_VC.index_select(0, ids_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Add the rows to what is there; only without a softmax before it, make a gradient."""
        (ids_N,) = ctx.saved_tensors
        begun_VC = ctx.handoff.take(ctx.cluster)
        if begun_VC is None:
            begun_VC = grads[0].new_zeros(ctx.shape)
            return None, begun_VC.index_add_(0, ids_N, grads[0]), None, None
        begun_VC.index_add_(0, ids_N, grads[0].to(begun_VC.dtype))
        return None, None, None, None


def _blocks(n_rows: int, n_words: int) -> list[slice]:
    size = max(16, _BLOCK_LOGITS // n_words)
    return [slice(low, min(low + size, n_rows)) for low in range(0, n_rows, size)]
