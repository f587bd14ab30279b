"""The embedding of tied tables, and how their gradients come to it from the softmax.

N positions · C width · V words.
"""

from typing import Any

import torch
from torch import Tensor

from trainer.model.cpu.factors import Factors
from trainer.model.kernels import Kernels
from trainer.model.table_gradients import TableGradients

#: Multiplications for each element of a table that spare its gradient, or its errors, the memory.
_WORTH = 512


class Handoff:
    """Carries the gradients of tied tables from the softmax to the embedding of the same pass.

    The softmax's backward comes first. What it has for a table is dense: the embedding adds its few
    rows to that, instead of making a second dense gradient of them. While factors are smaller, they
    are what is carried, and the embedding makes the gradient, when the layers between the two have
    freed what they kept. Gradients of few rows go to `apart`, if that is given.
    """

    def __init__(
        self, kernels: Kernels, *, is_tied: bool = True, apart: TableGradients | None = None
    ) -> None:
        """Carry gradients of a pass by `kernels`; without `is_tied` nothing is carried.

        The plain kernels know of no handoff.
        """
        self.kernels, self._is_tied = kernels, is_tied
        self._left: dict[int, Tensor | tuple[Factors, torch.dtype]] = {}
        self._apart = apart

    def apart_from(self, hidden_NC: Tensor, table: tuple[Tensor, Tensor]) -> TableGradients | None:
        """Return the place where the softmax of few rows leaves its table's gradient, in parts.

        Args:
            hidden_NC: what the logits are linear in.
            table: weight `[V, C]` and bias `[V]`.
        """
        n_rows, width = hidden_NC.shape
        # For each of the table's elements logits again, and errors' products with each other.
        is_worth_it = n_rows + n_rows**2 / width <= _WORTH
        return self._apart if is_worth_it and all(map(_has_a_plain_gradient, table)) else None

    def put(self, cluster: int, table_VC: Tensor, factors: Factors) -> Tensor | None:
        """Leave the gradient of a cluster's table; what of it is to be given to autograd now."""
        dtype = table_VC.dtype
        if not self._is_tied:
            return factors.dense(dtype)
        if factors.nbytes < table_VC.nbytes:
            self._left[cluster] = (factors, dtype)
            return None
        grad_VC = factors.dense(dtype)
        self.put_dense(cluster, grad_VC)
        return grad_VC

    def put_dense(self, cluster: int, grad_VC: Tensor) -> None:
        """Leave a gradient that autograd is given as well."""
        if self._is_tied:
            self._left[cluster] = grad_VC

    def put_rows(self, cluster: int, table_VC: Tensor, ids_N: Tensor, rows_NC: Tensor) -> bool:
        """Leave what the embedding has, if the table's gradient is kept apart.

        Not where this pass left some here, which the rows are to join: another's may be apart.
        """
        if self._apart is None or cluster in self._left:
            return False
        return self._apart.add_rows(table_VC, ids_N, rows_NC)

    def take(self, cluster: int) -> tuple[Tensor | None, bool]:
        """The gradient to add rows to, if there is one, and whether autograd has it already.

        It holds what it was given until all of the table's gradients are there, but not when
        several passes share one backward: then it has added them up in another, and there is none
        to add to. Not to hold on to it here lets autograd keep it.
        """
        left: Any = self._left.pop(cluster, None)
        if isinstance(left, tuple):
            factors, dtype = left
            return factors.dense(dtype), False
        return (left, True) if left is not None and left._use_count() > 1 else (None, False)


def _has_a_plain_gradient(parameter: Tensor) -> bool:
    """Return whether a parameter is trained, in order and not hooked: its gradient is unseen."""
    is_hooked = parameter._backward_hooks or parameter._post_accumulate_grad_hooks
    return parameter.requires_grad and parameter.is_contiguous() and not is_hooked


class TiedEmbedding(torch.autograd.Function):
    """Rows of a table whose gradient the softmax's backward has begun: see `Handoff`."""

    @staticmethod
    def forward(
        ctx: Any, ids_N: Tensor, table_VC: Tensor, handoff: Handoff, cluster: int
    ) -> Tensor:
        """`[N, C]`."""
        ctx.save_for_backward(ids_N)
        ctx.table_VC = table_VC  # itself: under checkpointing what is saved comes as another
        ctx.handoff, ctx.cluster = handoff, cluster
        return table_VC.index_select(0, ids_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Add the rows to what is there; only without a softmax before it, make a gradient."""
        (ids_N,) = ctx.saved_tensors
        table_VC, rows_NC = ctx.table_VC, grads[0]
        if ctx.handoff.put_rows(ctx.cluster, table_VC, ids_N, rows_NC):
            return None, None, None, None
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
