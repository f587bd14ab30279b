"""The back end of NVIDIA GPUs, A100 or newer: aligned rows, fused kernels, and no mask.

Nothing waits for the device, and no shape depends on data.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.model.adaptive import Table
from trainer.model.backend import Backend, fill_up
from trainer.model.layer import Hidden, Layer, Twin, wide
from trainer.model.memory.past import Past
from trainer.model.memory.seen import Seen
from trainer.model.memory.sight import visible_from
from trainer.model.tied_embedding import Handoff, tied_lookup
from trainer.model.triton.alignment import aligned, stored
from trainer.model.triton.layers import fused_layer
from trainer.model.triton.linear_nll import fused_linear_nll
from trainer.protocol import Segment

#: The number of a tail's rows is filled up to a multiple of this, and to this where it is 0.
_BUCKET = 128


class TritonBackend(Backend):
    """Layers with aligned rows, and a softmax that overwrites the logits with their gradient."""

    def __init__(self, *, is_tied: bool, n_layer: int) -> None:
        """Serve one pass of `n_layer` layers; `is_tied`: embedding and softmax share tables."""
        self._n_layer = n_layer
        self._seeds_L4: Tensor | None = None
        self._places: dict[Layer, int] = {}
        self._handoff = Handoff(is_tied=is_tied, sums_first=True)
        self._position_SP: Tensor | None = None

    def sight(self, memory: Seen, segment: Segment, *, same_length: bool) -> Tensor | None:
        """Return the first key that each query sees, see `visible_from`."""
        return visible_from(memory, segment, same_length=same_length)

    def layer(
        self,
        layer: Layer,
        x_BTD: Hidden,
        past: Past,
        sight: Tensor | None,
        biases: tuple[Tensor, Tensor] | None,
    ) -> tuple[Hidden, Tensor | None]:
        """Compute a layer in aligned rows."""
        if past.position_SD is not None and self._position_SP is None:
            self._position_SP = aligned(aligned(past.position_SD), dim=0)
        return fused_layer(
            layer.attention,
            layer.feed_forward,
            x_BTD if isinstance(x_BTD, Twin) else aligned(x_BTD),
            past._replace(
                memory_BMD=None if past.memory_BMD is None else aligned(past.memory_BMD),
                position_SD=self._position_SP,
            ),
            visible_from_BT=sight,
            shared_biases=biases,
            seeds_4=self._seeds_of(layer, wide(x_BTD).device),
        )

    def _seeds_of(self, layer: Layer, device: torch.device) -> Tensor | None:
        """Return a layer's own seeds, the same when it is computed again; None in evaluation."""
        if not layer.training:
            return None
        if self._seeds_L4 is None:
            self._seeds_L4 = torch.randint(2**62, (self._n_layer, 4), device=device)
        return self._seeds_L4[self._places.setdefault(layer, len(self._places))]

    def head_width(self, d_head: int) -> int:
        """Return the width of a head with its pad."""
        return stored(d_head)

    def lookup(self, ids_N: Tensor, table_VC: Tensor, cluster: int) -> Tensor:
        """Return rows of an embedding's table; their gradients are added to the softmax's."""
        return tied_lookup(ids_N, table_VC, self._handoff, cluster)

    def nats(
        self, hidden_NC: Tensor, targets_N: Tensor, tables: Sequence[Table], cluster: int
    ) -> Tensor:
        """Return the nats of each target, `[N]`."""
        return fused_linear_nll(
            hidden_NC, targets_N, tables, handoff=self._handoff, cluster=cluster
        )

    def filled(self, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return a tail's positions and targets, filled up to a multiple of `_BUCKET`."""
        return fill_up(rows, targets, to=_BUCKET, least=_BUCKET)
