"""Averaging gradients over ranks at ZeRO stage 0, in place.

DeepSpeed copies all gradients into one buffer, reduces that, and copies them back, also on a single
rank. A model's tables are nearly all of its gradient: they are reduced where they lie, and only
small gradients, for which a message each would cost more than a copy, are put together.

What a tied table gets from the softmax is there at the start of the backward pass, and all of it
but a few rows: it is summed while the layers compute theirs.

N tokens of a rank in the table · C its width · V its words.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

#: Elements from which on a gradient is a message of its own.
LARGE = 1 << 18


class TiedSums:
    """Sums over ranks of the gradients of tied tables, begun within the backward pass.

    Nothing of such a gradient goes through autograd: the softmax's part comes by `add_dense`, the
    embedding's by `add_rows`, and `finish` makes the table's `grad` of both.
    """

    def __init__(self, world_size: int) -> None:
        self.is_open = False
        """Whether this is the backward pass whose end is the step's; without it nothing is sent."""
        self._world_size = world_size
        self._dense: dict[Tensor, list[tuple[Tensor, Any]]] = {}
        self._rows: dict[Tensor, list[tuple[Tensor, Tensor]]] = {}

    def wants(self, table_VC: Tensor, *, n_tokens: int) -> bool:
        """Whether the gradient of a table is to come here; the same on all ranks.

        It is for a large table, and unless all rows of all ranks, `n_tokens` each at most, would be
        half of what the table is to send itself.
        """
        pays = table_VC.numel() >= LARGE and n_tokens * self._world_size <= len(table_VC)
        return self.is_open and pays

    def add_dense(self, table_VC: Tensor, grad_VC: Tensor) -> None:
        """Begin to sum the softmax's part, and with it what earlier slots left; keeps the tensor.

        Collective, in the order of the backward pass.
        """
        if table_VC.grad is not None:
            grad_VC += table_VC.grad
            table_VC.grad = None
        work = dist.all_reduce(grad_VC, async_op=True)
        self._dense.setdefault(table_VC, []).append((grad_VC, work))

    def add_rows(self, table_VC: Tensor, ids_N: Tensor, rows_NC: Tensor) -> bool:
        """Take the embedding's part, if the softmax's of this table has come."""
        if table_VC not in self._dense:
            return False
        self._rows.setdefault(table_VC, []).append((ids_N, rows_NC.to(table_VC.dtype)))
        return True

    def finish(self) -> list[Tensor]:
        """Put the sums into the `grad` of their tables, which it returns. Collective."""
        tables, rows = list(self._dense), [self._local_rows(table) for table in self._dense]
        if not tables:
            return []
        most = torch.tensor([len(ids_N) for ids_N, _ in rows])
        dist.all_reduce(most, dist.ReduceOp.MAX)
        for table_VC, (ids_N, rows_NC), n_rows in zip(tables, rows, most.tolist(), strict=True):
            # What is padded adds nothing to the first word.
            missing = n_rows - len(ids_N)
            every_id_N = self._gathered(F.pad(ids_N, (0, missing)))
            every_row_NC = self._gathered(F.pad(rows_NC, (0, 0, 0, missing)))
            (sum_VC, work), *others = self._dense[table_VC]
            work.wait()
            for other_VC, work in others:
                work.wait()
                sum_VC += other_VC
            table_VC.grad = sum_VC.index_add_(0, every_id_N, every_row_NC)
        self._dense.clear()
        self._rows.clear()
        return tables

    def _local_rows(self, table_VC: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's ids `[N]` and rows `[N, C]`."""
        ids_N, rows_NC = zip(*self._rows[table_VC], strict=True)
        return torch.cat(ids_N), torch.cat(rows_NC)

    def _gathered(self, part: Tensor) -> Tensor:
        """The parts of all ranks, one after the other."""
        parts = [torch.empty_like(part) for _ in range(self._world_size)]
        dist.all_gather(parts, part)
        return torch.cat(parts)


def average_gradients(
    parameters: Sequence[nn.Parameter], *, world_size: int, sums: TiedSums | None = None
) -> None:
    """Replace every gradient by its mean over ranks; one that a rank lacks counts as zero there.

    Collective, in the default process group; all ranks pass the same parameters.

    Args:
        parameters: all of a model.
        world_size: number of ranks.
        sums: has the gradients that came to it.
    """
    if world_size == 1:
        return
    finished = sums.finish() if sums is not None else []
    done = {id(table) for table in finished}
    rest = [parameter for parameter in parameters if id(parameter) not in done]
    for parameter in rest:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    grads = [parameter.grad for parameter in rest if parameter.grad is not None]
    under_way = [dist.all_reduce(g, async_op=True) for g in grads if g.numel() >= LARGE]
    small = [g for g in grads if g.numel() < LARGE]
    if small:
        together = torch.cat([g.reshape(-1) for g in small])
        dist.all_reduce(together)
        parts = torch.split(together, [g.numel() for g in small])
        for grad, part in zip(small, parts, strict=True):
            grad.copy_(part.view_as(grad))
    for work in under_way:
        work.wait()
    sums_and_rest = [p.grad for p in (*finished, *rest) if p.grad is not None]
    torch._foreach_mul_(sums_and_rest, 1 / world_size)
