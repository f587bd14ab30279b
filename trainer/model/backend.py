"""The seam between the model and the operations that a device computes in its own way.

B streams · T tgt_len · N positions (B·T) · D d_model · C width of a table · V words.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model.adaptive import Table, linear_nats, lookup
from trainer.model.attention import Attend, relative_attention
from trainer.model.layer import Hidden, Layer, wide
from trainer.model.memory.past import Past
from trainer.model.memory.seen import Seen
from trainer.model.memory.sight import hidden_keys
from trainer.protocol import IGNORED, Segment


class Backend:
    """The plain operations; a device's own back end overrides those that it computes faster.

    All back ends compute the same results. An object serves one forward pass and its backward pass.
    """

    attend: Attend = staticmethod(relative_attention)
    """The function with which the attention of `Layer.plain` computes."""

    def sight(self, memory: Seen, segment: Segment, *, same_length: bool) -> Tensor | None:
        """Return which keys each query sees, in the form that `layer` takes."""
        return hidden_keys(memory, segment, same_length=same_length)

    def layer(
        self,
        layer: Layer,
        x_BTD: Hidden,
        past: Past,
        sight: Tensor | None,
        biases: tuple[Tensor, Tensor] | None,
    ) -> tuple[Hidden, Tensor | None]:
        """Compute what `Layer.plain` does; rows of input and output may be padded beyond D."""
        assert sight is not None
        return layer.plain(wide(x_BTD), past, sight, biases, self.attend)

    def head_width(self, d_head: int) -> int:
        """Return the width of a head in the keys and values that `layer` writes into memory."""
        return d_head

    def lookup(self, ids_N: Tensor, table_VC: Tensor, cluster: int) -> Tensor:
        """Return rows of an embedding's table, `[N, C]`."""
        return lookup(ids_N, table_VC, cluster)

    def nats(
        self, hidden_NC: Tensor, targets_N: Tensor, tables: Sequence[Table], cluster: int
    ) -> Tensor:
        """Return the nats of each target, `[N]`, under one softmax over the words of all tables."""
        return linear_nats(hidden_NC, targets_N, tables, cluster)

    def filled(self, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return a tail's positions and targets, filled up where that is faster: see `fill_up`."""
        return rows, targets


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """Return the type in which a product with the hidden states is computed."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def fill_up(rows: Tensor, targets: Tensor, *, to: int, least: int = 0) -> tuple[Tensor, Tensor]:
    """Return a tail's positions and targets, filled up with position 0, whose target is ignored.

    The number of a tail's targets differs from step to step. Every new size of a tensor would cost
    a GPU a new division of its memory, and oneDNN a new program, which it keeps.

    Args:
        rows: int64 positions.
        targets: their targets, as many.
        to: the number that is returned is a multiple of this.
        least: the smallest number that is returned.
    """
    n_more = max(least, -(-len(rows) // to) * to) - len(rows)
    if n_more == 0:
        return rows, targets
    return F.pad(rows, (0, n_more)), F.pad(targets, (0, n_more), value=IGNORED)
