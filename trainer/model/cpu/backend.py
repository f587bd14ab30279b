"""The back end of CPUs: autograd functions that keep fewer tensors and read them less often."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.model.adaptive import Table
from trainer.model.backend import Backend, fill_up
from trainer.model.cpu.attention import cpu_attention
from trainer.model.cpu.linear_nll import linear_nll
from trainer.model.cpu.streamed_nats import streamed_nats
from trainer.model.tied_embedding import Handoff, tied_lookup

#: The number of a tail's rows is filled up to a multiple of this.
_BUCKET = 16


class CpuAttention(Backend):
    """Attention that keeps one matrix, and the plain softmax.

    This serves fp16, in which the probabilities that `CpuBackend` keeps would be too coarse.
    """

    attend = staticmethod(cpu_attention)


class CpuBackend(CpuAttention):
    """Attention and a softmax that keep one matrix each."""

    def __init__(self, *, is_tied: bool) -> None:
        """Serve one pass; `is_tied` says whether embedding and softmax share tables."""
        self._handoff = Handoff(is_tied=is_tied)

    def lookup(self, ids_N: Tensor, table_VC: Tensor, cluster: int) -> Tensor:
        """Return rows of an embedding's table; their gradients are added to the softmax's."""
        return tied_lookup(ids_N, table_VC, self._handoff, cluster)

    def nats(
        self, hidden_NC: Tensor, targets_N: Tensor, tables: Sequence[Table], cluster: int
    ) -> Tensor:
        """Return the nats of each target, `[N]`, computed from the tables piece by piece."""
        if not torch.is_grad_enabled():
            return streamed_nats(hidden_NC, targets_N, tables)
        return linear_nll(hidden_NC, targets_N, tables, handoff=self._handoff, cluster=cluster)

    def filled(self, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return a tail's positions and targets, filled up to a multiple of `_BUCKET`."""
        return fill_up(rows, targets, to=_BUCKET)
