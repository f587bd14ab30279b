"""The lookup in tied tables, which adds its gradients to those of the softmax.

N positions · C width · V words.
"""

from typing import Any

import torch
from torch import Tensor


class Handoff:
    """A carrier of the gradients of tied tables from the softmax to the embedding of one pass.

    In the backward pass the softmax comes before the embedding. The softmax's gradient of a table
    is dense. The embedding adds its few rows to this gradient and gives autograd the sum, instead
    of making a second dense gradient.
    """

    def __init__(self, *, is_tied: bool = True, sums_first: bool = False) -> None:
        """Serve one pass.

        Args:
            is_tied: whether embedding and softmax share tables; if not, nothing is carried.
            sums_first: whether to sum the rows of one id before adding them, see `summed_by_id`.
        """
        self.sums_first, self._is_tied = sums_first, is_tied
        self._left: dict[int, Tensor] = {}

    def put(self, cluster: int, grad_VC: Tensor) -> Tensor | None:
        """Keep the gradient of a cluster's table for `take`; return it if nothing is carried."""
        if not self._is_tied:
            return grad_VC
        self._left[cluster] = grad_VC
        return None

    def take(self, cluster: int) -> Tensor | None:
        """Return the gradient kept for a cluster's table, and forget it; None without one."""
        return self._left.pop(cluster, None)


def tied_lookup(ids_N: Tensor, table_VC: Tensor, handoff: Handoff, cluster: int) -> Tensor:
    """Return rows of a cluster's table, `[N, C]`; their gradient joins the softmax's."""
    rows_NC: Tensor = _TiedLookup.apply(ids_N, table_VC, handoff, cluster)  # type: ignore[no-untyped-call]
    return rows_NC


class _TiedLookup(torch.autograd.Function):
    """A lookup whose gradient is added to the one that the softmax has made: see `Handoff`."""

    @staticmethod
    def forward(
        ctx: Any, ids_N: Tensor, table_VC: Tensor, handoff: Handoff, cluster: int
    ) -> Tensor:
        """Return rows of the table, `[N, C]`."""
        ctx.save_for_backward(ids_N)
        ctx.shape, ctx.handoff, ctx.cluster = table_VC.shape, handoff, cluster
        return table_VC.index_select(0, ids_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Add the rows' gradients to the softmax's gradient, or to zeros if there is none."""
        (ids_N,) = ctx.saved_tensors
        rows_NC = grads[0]
        grad_VC = ctx.handoff.take(ctx.cluster)
        if grad_VC is None:
            grad_VC = rows_NC.new_zeros(ctx.shape)
        if ctx.handoff.sums_first:
            ids_N, rows_NC = summed_by_id(ids_N, rows_NC, n_words=len(grad_VC))
        grad_VC.index_add_(0, ids_N, rows_NC.to(grad_VC.dtype))
        return None, grad_VC, None, None


def summed_by_id(ids_N: Tensor, rows_NC: Tensor, *, n_words: int) -> tuple[Tensor, Tensor]:
    """Return each different id once, and the sum of its rows in fp32 at least.

    A GPU adds rows of the same id to a table in any order, and in 16 bits the sum of hundreds of
    rows loses most of them. Only the device knows how many ids differ, so as many are returned as
    were given: the rest have rows of zeros. They are spread over the `n_words` ids, because an A100
    adds 16-bit rows of one id in turn.
    """
    sorted_N, order_N = ids_N.sort()
    rank_N = torch.zeros_like(ids_N)
    rank_N[1:] = (sorted_N[1:] != sorted_N[:-1]).cumsum(0)
    rank_of_row_N = torch.empty_like(ids_N).scatter_(0, order_N, rank_N)
    spread_N = torch.arange(len(ids_N), device=ids_N.device)
    if len(ids_N) > n_words:
        spread_N %= n_words
    unique_N = spread_N.scatter_(0, rank_N, sorted_N)
    exact_NC = rows_NC.to(torch.promote_types(rows_NC.dtype, torch.float32))
    # The only one of PyTorch's sums of rows by index that adds in the same order every time.
    sum_NC = torch.ops.aten.embedding_dense_backward(exact_NC, rank_of_row_N, len(ids_N), -1, False)
    return unique_N, sum_NC
