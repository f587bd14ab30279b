"""Rows of a tensor, whose gradients go back to one tensor.

N rows of the tensor · D width · n rows of a list.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def with_rows(x_ND: Tensor, lists: Sequence[Tensor]) -> list[Tensor]:
    """Return `x_ND`, then its rows of each list, `[n, D]`.

    The gradients of the rows are added to that of `x_ND` where they belong. With a selection each,
    autograd would fill a tensor as large as `x_ND` for every list.
    """
    if not lists:
        return [x_ND]
    return list(_WithRows.apply(x_ND, *lists))  # type: ignore[no-untyped-call]


class _WithRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, *lists: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*lists)
        return x_ND.view_as(x_ND), *(x_ND.index_select(0, rows) for rows in lists)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_ND, *of_lists = grads
        grad_ND = grad_ND.clone()  # not ours to change
        for rows, grad_nD in zip(reversed(ctx.saved_tensors), reversed(of_lists), strict=True):
            grad_ND.index_add_(0, rows, grad_nD)
        return grad_ND, *[None] * len(of_lists)
