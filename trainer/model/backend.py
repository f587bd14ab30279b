"""The seam between the model and what a device computes in its own way.

B streams · T tgt_len · N positions (B·T) · D d_model · C width of a table · V words.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model.adaptive import Table, linear_nats, lookup
from trainer.model.layer import Layer
from trainer.model.memory import KeysAndValues, LayerInputs, Past, hidden_keys
from trainer.protocol import IGNORED, Segment


class Backend:
    """The plain operations; a device's own back end overrides what it computes faster.

    All compute the same. One object serves one forward pass with its backward pass.
    """

    def sight(
        self, memory: LayerInputs | KeysAndValues, segment: Segment, *, same_length: bool
    ) -> Tensor | None:
        """Return what `layer` takes to know which keys a query sees."""
        return hidden_keys(memory, segment, same_length=same_length)

    def layer(
        self,
        layer: Layer,
        x_BTD: Tensor,
        past: Past,
        sight: Tensor | None,
        biases: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Compute a layer as `Layer.plain`; rows may come and go with more elements than D."""
        assert sight is not None
        return layer.plain(x_BTD, past, sight, biases)

    def head_width(self, d_head: int) -> int:
        """Return how wide a head is in the keys and values that `layer` keeps."""
        return d_head

    def lookup(self, ids_N: Tensor, table_VC: Tensor, cluster: int) -> Tensor:
        """Return rows of an embedding's table, `[N, C]`."""
        return lookup(ids_N, table_VC, cluster)

    def nats(
        self, hidden_NC: Tensor, targets_N: Tensor, tables: Sequence[Table], cluster: int
    ) -> Tensor:
        """Return nats of targets under one softmax over the words of all tables, `[N]`."""
        return linear_nats(hidden_NC, targets_N, tables, cluster)

    def filled(self, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return a tail's positions and targets, in a number that is fast, see `fill_up`."""
        return rows, targets


def compute_dtype(hidden_NC: Tensor) -> torch.dtype:
    """Return the type in which a product with the hidden states is computed."""
    device = hidden_NC.device.type
    if torch.is_autocast_enabled(device) and hidden_NC.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden_NC.dtype


def fill_up(rows: Tensor, targets: Tensor, *, to: int, least: int = 0) -> tuple[Tensor, Tensor]:
    """Return a tail's positions and targets, filled up with position 0, whose target is ignored.

    Their number differs from step to step, and with it would the sizes of all tensors: a GPU's
    memory has to be cut anew for each, and oneDNN makes, and keeps, a program for each.

    Args:
        rows: int64 positions.
        targets: of as many.
        to: they become a multiple of this.
        least: and at least as many.
    """
    n_more = max(least, -(-len(rows) // to) * to) - len(rows)
    return F.pad(rows, (0, n_more)), F.pad(targets, (0, n_more), value=IGNORED)
