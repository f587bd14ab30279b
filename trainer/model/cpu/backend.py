"""The back end of CPUs: autograd functions that keep less and pass over it less often."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.model.adaptive import Table
from trainer.model.backend import Backend, fill_up
from trainer.model.cpu.attention import cpu_attention
from trainer.model.cpu.linear_nll import linear_nll
from trainer.model.cpu.streamed_nats import streamed_nats
from trainer.model.layer import Layer
from trainer.model.memory import Past
from trainer.model.tied_embedding import Handoff, tied_lookup

#: Rows of a tail become a multiple of this.
_BUCKET = 16


class CpuBackend(Backend):
    """Attention that keeps one matrix, and a softmax that keeps one; in fp16 attention alone.

    The softmax's kept probabilities would be too coarse in fp16.
    """

    def __init__(self, *, is_tied: bool, dtype: torch.dtype) -> None:
        """Serve one pass in `dtype`; `is_tied`: the embedding has the softmax's tables."""
        self._is_fast = dtype != torch.float16
        self._handoff = Handoff(is_tied=is_tied)

    def layer(
        self,
        layer: Layer,
        x_BTD: Tensor,
        past: Past,
        sight: Tensor | None,
        biases: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Compute a layer with attention of its own."""
        assert sight is not None
        return layer.plain(x_BTD, past, sight, biases, attend=cpu_attention)

    def lookup(self, ids_N: Tensor, table_VC: Tensor, cluster: int) -> Tensor:
        """Return rows of an embedding's table, whose gradients join the softmax's."""
        if not self._is_fast:
            return super().lookup(ids_N, table_VC, cluster)
        return tied_lookup(ids_N, table_VC, self._handoff, cluster)

    def nats(
        self, hidden_NC: Tensor, targets_N: Tensor, tables: Sequence[Table], cluster: int
    ) -> Tensor:
        """Return nats of targets, by pieces of the tables."""
        if not self._is_fast:
            return super().nats(hidden_NC, targets_N, tables, cluster)
        if not torch.is_grad_enabled():
            return streamed_nats(hidden_NC, targets_N, tables)
        return linear_nll(hidden_NC, targets_N, tables, handoff=self._handoff, cluster=cluster)

    def filled(self, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return a tail's positions and targets, filled up."""
        return fill_up(rows, targets, to=_BUCKET) if self._is_fast else (rows, targets)
