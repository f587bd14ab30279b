"""The embedding of tied tables, and how their gradients come to it from the softmax.

N positions · C width · V words.
"""

from typing import Any

import torch
from torch import Tensor


class Handoff:
    """Carries the gradients of tied tables from the softmax to the embedding of the same pass.

    The softmax's backward comes first, since its hidden states come from the embedding. What it has
    for a table is dense: the embedding adds its few rows to that, and gives autograd the sum,
    instead of making a second dense gradient of them.
    """

    def __init__(self, *, is_tied: bool = True, sums_first: bool = False) -> None:
        """Carry gradients of one pass.

        Args:
            is_tied: without, nothing is carried.
            sums_first: rows of one id are summed before they are added, see `summed_by_id`.
        """
        self.sums_first, self._is_tied = sums_first, is_tied
        self._left: dict[int, Tensor] = {}

    def put(self, cluster: int, grad_VC: Tensor) -> Tensor | None:
        """Leave the gradient of a cluster's table; return what of it autograd is given now."""
        if not self._is_tied:
            return grad_VC
        self._left[cluster] = grad_VC
        return None

    def take(self, cluster: int) -> Tensor | None:
        """Take what was left."""
        return self._left.pop(cluster, None)


def tied_lookup(ids_N: Tensor, table_VC: Tensor, handoff: Handoff, cluster: int) -> Tensor:
    """Return rows of a cluster's table, `[N, C]`, whose gradient joins what the softmax left."""
    rows_NC: Tensor = _TiedLookup.apply(ids_N, table_VC, handoff, cluster)  # type: ignore[no-untyped-call]
    return rows_NC


class _TiedLookup(torch.autograd.Function):
    """Rows of a table whose gradient the softmax's backward has begun: see `Handoff`."""

    @staticmethod
    def forward(
        ctx: Any, ids_N: Tensor, table_VC: Tensor, handoff: Handoff, cluster: int
    ) -> Tensor:
        """`[N, C]`."""
        ctx.save_for_backward(ids_N)
        ctx.shape, ctx.handoff, ctx.cluster = table_VC.shape, handoff, cluster
        return table_VC.index_select(0, ids_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Add the rows to what is there; only without a softmax before it, make a gradient."""
        (ids_N,) = ctx.saved_tensors
        rows_NC = grads[0]
        grad_VC = ctx.handoff.take(ctx.cluster)
        if grad_VC is None:
            grad_VC = rows_NC.new_zeros(ctx.shape)
        if ctx.handoff.sums_first:
            ids_N, rows_NC = summed_by_id(ids_N, rows_NC)
        grad_VC.index_add_(0, ids_N, rows_NC.to(grad_VC.dtype))
        return None, grad_VC, None, None


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
