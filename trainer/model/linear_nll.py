"""Nats of words under a softmax over linear logits, kept for the backward pass as one matrix.

Forward and backward of `F.cross_entropy(F.linear(…))` write the logits, their logarithms and the
gradient, each `[N, V]`. Here a block of rows goes from logits to probabilities while it lies in the
cache, and is what the backward pass multiplies with.

N positions · C width · V words.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.model.kernels import Kernels
from trainer.protocol import IGNORED

#: Logits that are made at a time: what a core's cache holds.
_BLOCK_LOGITS = 1 << 21

Table = tuple[Tensor, Tensor]
"""Weight `[V, C]` and bias `[V]` of some of the words."""


class Factors(NamedTuple):
    """A table's gradient as the product that it is: smaller than the table, where rows are few."""

    error_NV: Tensor
    scaled_NC: Tensor
    dtype: torch.dtype
    """Of the table."""

    def dense(self) -> Tensor:
        """The gradient, `[V, C]`, piece by piece."""
        n_words, width = self.error_NV.shape[1], self.scaled_NC.shape[1]
        grad_VC = self.scaled_NC.new_empty(n_words, width, dtype=self.dtype)
        for words in _runs(n_words, size=_BLOCK_LOGITS // width):
            error_WN = self.error_NV[:, words].t()
            if self.dtype == error_WN.dtype:
                torch.mm(error_WN, self.scaled_NC, out=grad_VC[words])
            else:
                grad_VC[words].copy_(error_WN @ self.scaled_NC)
        return grad_VC


class Handoff:
    """Carries the gradients of tied tables from the softmax to the embedding of the same pass.

    The softmax's backward comes first. What it has for a table is dense: the embedding adds its few
    rows to that, instead of making a second dense gradient of them. While factors are smaller, they
    are what is carried, and the embedding makes the gradient, when the layers between the two have
    freed what they kept.
    """

    def __init__(self, kernels: Kernels, *, is_tied: bool = True) -> None:
        """Carry gradients of a pass by `kernels`; without `is_tied` nothing is carried.

        They are not the plain ones, which know of no handoff.
        """
        self.kernels, self._is_tied = kernels, is_tied
        self._left: dict[int, Tensor | Factors] = {}

    def put(self, cluster: int, table_VC: Tensor, factors: Factors) -> Tensor | None:
        """Leave the gradient of a cluster's table; what of it is to be given to autograd now."""
        if not self._is_tied:
            return factors.dense()
        if factors.error_NV.nbytes + factors.scaled_NC.nbytes < table_VC.nbytes:
            self._left[cluster] = factors
            return None
        grad_VC = factors.dense()
        self.put_dense(cluster, grad_VC)
        return grad_VC

    def put_dense(self, cluster: int, grad_VC: Tensor) -> None:
        """Leave a gradient that autograd is given as well."""
        if self._is_tied:
            self._left[cluster] = grad_VC

    def take(self, cluster: int) -> tuple[Tensor | None, bool]:
        """The gradient to add rows to, if there is one, and whether autograd has it already.

        It holds what it was given until all of the table's gradients are there, but not when
        several passes share one backward: then it has added them up in another, and there is none
        to add to. Not to hold on to it here lets autograd keep it.
        """
        left: Any = self._left.pop(cluster, None)
        if isinstance(left, Factors):
            return left.dense(), False
        return (left, True) if left is not None and left._use_count() > 1 else (None, False)


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
        narrow_N1 = scale_N1.to(hidden.dtype)
        of_tables: list[Tensor | None] = []
        first = 0
        for i in range(0, len(tables), 2):
            error_here_NV = error_NV[:, first : first + len(tables[i])]
            first += len(tables[i])
            of_bias_V = torch.empty_like(tables[i + 1])
            for weight_WC, _, words in _pieces(tables[i : i + 2], hidden.dtype):
                error_NW = error_here_NV[:, words]
                grad_NC += error_NW @ weight_WC
                of_bias_V[words] = (error_NW.t() @ narrow_N1)[:, 0]
            factors = Factors(error_here_NV, scaled_NC, tables[i].dtype)
            carried = ctx.handoff is not None and i == 0
            of_weight_VC = (
                ctx.handoff.put(ctx.cluster, tables[i], factors) if carried else factors.dense()
            )
            of_tables += [of_weight_VC, of_bias_V]
        grad_NC = (grad_NC * scale_N1).to(ctx.hidden_dtype)
        return grad_NC, None, None, None, None, None, *of_tables


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
        for words in _runs(len(weight), size=_BLOCK_LOGITS // weight.shape[1]):
            there = slice(first + words.start, first + words.stop)
            yield weight[words].to(dtype), bias[words].to(dtype), there
        first += len(weight)


def _blocks(n_rows: int, n_words: int, *, size: int) -> list[slice]:
    """The rows in blocks of at most `size` logits, if that is 16 rows."""
    return _runs(n_rows, size=max(16, size // n_words))


def _runs(n: int, *, size: int) -> list[slice]:
    """`n` in runs of `size`, which is taken to be 1 at least; the last is what is left."""
    size = max(1, size)
    return [slice(low, min(low + size, n)) for low in range(0, n, size)]


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
        begun_VC, is_given = ctx.handoff.take(ctx.cluster)
        if ctx.handoff.kernels is Kernels.TRITON:
            ids_N, rows_NC = summed_by_id(ids_N, rows_NC)
        if begun_VC is None:
            begun_VC = grads[0].new_zeros(table_VC.shape)
        begun_VC.index_add_(0, ids_N, rows_NC.to(begun_VC.dtype))
        return None, None if is_given else begun_VC, None, None


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
