"""Nats of words under a softmax over linear logits, kept for the backward pass as one matrix.

Forward and backward of `F.cross_entropy(F.linear(…))` write the logits, their logarithms and the
gradient, each `[N, V]`. Here a block of rows goes from logits to probabilities while it lies in the
cache, and is what the backward pass multiplies with.

N positions · C width · V words.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.model.kernels import Kernels
from trainer.protocol import IGNORED
from trainer.reduction import TiedSums

#: Logits that are made at a time: what a core's cache holds.
_BLOCK_LOGITS = 1 << 21

Table = tuple[Tensor, Tensor]
"""Weight `[V, C]` and bias `[V]` of some of the words."""


class Handoff:
    """Carries the gradients of tied tables from the softmax to the embedding of the same pass.

    The softmax's backward comes first, with a dense gradient; the embedding adds its few rows to
    that, instead of making a second dense gradient of them. With `sums` both parts go there.
    """

    def __init__(
        self, kernels: Kernels, *, sums: TiedSums | None = None, n_tokens: int = 0
    ) -> None:
        """Carry gradients of a pass by `kernels`, over `n_tokens` tokens on every rank.

        They are not the plain ones, which know of no handoff.
        """
        self.kernels = kernels
        self._grads: dict[int, Tensor] = {}
        self._sums, self._n_tokens = sums, n_tokens

    def put(self, cluster: int, table_VC: Tensor, grad_VC: Tensor) -> bool:
        """Leave the gradient of a cluster's table; whether it is to be given to autograd, too."""
        if self._sums is not None and self._sums.wants(table_VC, n_tokens=self._n_tokens):
            self._sums.add_dense(table_VC, grad_VC)
            return False
        self._grads[cluster] = grad_VC
        return True

    def put_rows(self, table_VC: Tensor, ids_N: Tensor, rows_NC: Tensor) -> bool:
        """Leave what the embedding adds to a table whose gradient autograd was not given."""
        return self._sums is not None and self._sums.add_rows(table_VC, ids_N, rows_NC)

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
    dtype = compute_dtype(hidden_NC)
    flat = [tensor for table in tables for tensor in table]
    with torch.autocast(hidden_NC.device.type, enabled=False):
        nll_N: Tensor = _LinearNll.apply(  # type: ignore[no-untyped-call]
            hidden_NC, targets_N, dtype, torch.is_grad_enabled(), handoff, cluster, *flat
        )
    return nll_N


def compute_dtype(hidden_NC: Tensor) -> torch.dtype:
    """What a product with it is computed in."""
    device = hidden_NC.device.type
    if torch.is_autocast_enabled(device) and hidden_NC.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden_NC.dtype


class _LinearNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NC: Tensor, targets_N: Tensor, dtype: torch.dtype, keep: bool,
        handoff: Handoff | None, cluster: int, *tables: Tensor,
    ) -> Tensor:  # fmt: skip
        """`[N]`; `keep` says whether a backward pass may follow."""
        hidden = hidden_NC.to(dtype)
        n_rows, n_words = len(hidden), sum(map(len, tables[::2]))
        wide = torch.promote_types(dtype, torch.float32)
        error_NV = hidden.new_empty(n_rows if keep else 0, n_words)
        nll_N: Tensor = hidden.new_empty(n_rows, dtype=wide)
        total_N = torch.ones_like(nll_N)
        known_N = targets_N != IGNORED
        index_N = targets_N.clamp_min(0)
        # A small table stays in the cache while the rows go by in blocks; a large one goes by once.
        is_small = n_words * hidden.shape[1] <= 2 * _BLOCK_LOGITS
        small = list(_pieces(tables, dtype)) if is_small else None
        for rows in _blocks(n_rows, n_words, size=_BLOCK_LOGITS * (1 if is_small else 8)):
            logits = error_NV[rows] if keep else hidden.new_empty(rows.stop - rows.start, n_words)
            for weight, bias, words in small or _pieces(tables, dtype):
                torch.addmm(bias, hidden[rows], weight.t(), out=logits[:, words])
            for block in _blocks(len(logits), n_words, size=_BLOCK_LOGITS):
                these = slice(rows.start + block.start, rows.start + block.stop)
                nll_N[these], total_N[these] = _errors(logits[block], index_N[these], keep=keep)
        ctx.save_for_backward(hidden, error_NV, known_N / total_N, *tables)
        ctx.handoff, ctx.cluster, ctx.hidden_dtype = handoff, cluster, hidden_NC.dtype
        return nll_N.mul_(known_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Of the hidden states, then of each table's weight and bias."""
        hidden, error_NV, share_N, *tables = ctx.saved_tensors
        scale_N1 = (grads[0] * share_N)[:, None]
        scaled_NC = (hidden * scale_N1).to(hidden.dtype)
        grad_NC = torch.zeros_like(hidden, dtype=share_N.dtype)
        of_tables = [torch.empty_like(tensor) for tensor in tables]
        written = _pieces(of_tables, None)
        for (weight, _, words), (of_weight, of_bias, _) in zip(
            _pieces(tables, hidden.dtype), written, strict=True
        ):
            part_VN = error_NV[:, words].t()
            grad_NC += part_VN.t() @ weight
            of_bias.copy_((part_VN @ scale_N1.to(hidden.dtype))[:, 0])
            if of_weight.dtype == hidden.dtype:
                torch.mm(part_VN, scaled_NC, out=of_weight)
            else:
                of_weight.copy_(part_VN @ scaled_NC)
        first: Tensor | None = of_tables[0]
        if ctx.handoff is not None and not ctx.handoff.put(ctx.cluster, tables[0], of_tables[0]):
            first = None
        grad_NC = (grad_NC * scale_N1).to(ctx.hidden_dtype)
        return grad_NC, None, None, None, None, None, first, *of_tables[1:]


def _errors(logits: Tensor, index_N: Tensor, *, keep: bool) -> tuple[Tensor, Tensor]:
    """Nats and the softmax's total of each row.

    With `keep` the logits become, times that total, the probabilities less one at the target.
    """
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    exact.sub_(exact.amax(dim=1, keepdim=True))
    chosen_N = exact.gather(1, index_N[:, None])[:, 0]
    total_N = exact.exp_().sum(dim=1)
    if keep:
        exact.scatter_add_(1, index_N[:, None], -total_N[:, None])
        if exact is not logits:
            logits.copy_(exact)
    return total_N.log() - chosen_N, total_N


def _pieces(
    tables: Sequence[Tensor], dtype: torch.dtype | None
) -> Iterator[tuple[Tensor, Tensor, slice]]:
    """Some words' weight and bias in `dtype`, and where they are among all words.

    A table that is not in `dtype` is never there whole in it as well: the tables are most of a
    model.
    """
    first = 0
    for weight, bias in zip(tables[::2], tables[1::2], strict=True):
        n_words = max(1, _BLOCK_LOGITS // weight.shape[1])
        for low in range(0, len(weight), n_words):
            words = slice(low, min(low + n_words, len(weight)))
            there = slice(first + words.start, first + words.stop)
            yield weight[words].to(dtype), bias[words].to(dtype), there
        first += len(weight)


def _blocks(n_rows: int, n_words: int, *, size: int) -> list[slice]:
    """The rows in blocks of at most `size` logits, if that is 16 rows."""
    n = max(16, size // n_words)
    return [slice(low, min(low + n, n_rows)) for low in range(0, n_rows, n)]


class TiedEmbedding(torch.autograd.Function):
    """Rows of a table whose gradient the softmax's backward has begun: see `Handoff`."""

    @staticmethod
    def forward(
        ctx: Any, ids_N: Tensor, table_VC: Tensor, handoff: Handoff, cluster: int
    ) -> Tensor:
        """`[N, C]`."""
        ctx.save_for_backward(ids_N, table_VC)
        ctx.handoff, ctx.cluster = handoff, cluster
        return table_VC.index_select(0, ids_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Add the rows to what is there; only without a softmax before it, make a gradient."""
        ids_N, table_VC = ctx.saved_tensors
        rows_NC = grads[0]
        if ctx.handoff.put_rows(table_VC, ids_N, rows_NC):
            return None, None, None, None
        begun_VC = ctx.handoff.take(ctx.cluster)
        if ctx.handoff.kernels is Kernels.TRITON:
            ids_N, rows_NC = summed_by_id(ids_N, rows_NC)
        if begun_VC is None:
            begun_VC = grads[0].new_zeros(table_VC.shape)
            begun_VC.index_add_(0, ids_N, rows_NC.to(begun_VC.dtype))
            return None, begun_VC, None, None
        begun_VC.index_add_(0, ids_N, rows_NC.to(begun_VC.dtype))
        return None, None, None, None


def summed_by_id(ids_N: Tensor, rows_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Ids of which each is there once, and the sum of its rows in fp32 at least.

    What a GPU needs before it adds rows to a table: it adds those of one id in any order, and in 16
    bits a word that is there hundreds of times loses most of them. As many as were given, since how
    many differ only the device knows: what is too many is id 0 with a row of zeros.
    """
    sorted_N, order_N = ids_N.sort()
    rank_N = torch.zeros_like(ids_N)
    rank_N[1:] = (sorted_N[1:] != sorted_N[:-1]).cumsum(0)
    rank_of_row_N = torch.empty_like(ids_N).scatter_(0, order_N, rank_N)
    unique_N = torch.zeros_like(ids_N).scatter_(0, rank_N, sorted_N)
    exact_NC = rows_NC.to(torch.promote_types(rows_NC.dtype, torch.float32))
    # Of all that sums rows by index this alone does it in the same order every time.
    sum_NC = torch.ops.aten.embedding_dense_backward(exact_NC, rank_of_row_N, len(ids_N), -1, False)
    return unique_N, sum_NC
