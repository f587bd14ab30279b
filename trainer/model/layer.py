"""A layer of Transformer-XL.

B streams · T tgt_len · D d_model.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn

from trainer.config.recipe import ModelConfig
from trainer.model.attention import Attend, RelativeAttention
from trainer.model.feed_forward import FeedForward
from trainer.model.memory.past import Past


class Twin(NamedTuple):
    """Hidden states between layers, and the same in the dtype in which products are computed."""

    wide: Tensor
    narrow: Tensor


Hidden: TypeAlias = "Tensor | Twin"
"""Hidden states as they go from layer to layer; a back end chooses the form."""
Compute = Callable[..., tuple[Hidden, Tensor | None]]


def wide(x: Hidden) -> Tensor:
    """Return hidden states as they are."""
    return x.wide if isinstance(x, Twin) else x


def narrow(x: Hidden) -> Tensor:
    """Return hidden states as products take them, where the layer before has made that."""
    return x.narrow if isinstance(x, Twin) else x


class Layer(nn.Module):
    """Attention, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        pre_norm = config.norm == "pre"
        self.attention = RelativeAttention(
            d_model=config.d_model,
            n_head=config.n_head,
            d_head=config.d_head,
            dropout=config.dropout,
            attn_dropout=config.attn_dropout,
            pre_norm=pre_norm,
            own_biases=config.position_biases == "per_layer",
        )
        self.feed_forward = FeedForward(
            d_model=config.d_model,
            d_inner=config.d_inner,
            dropout=config.dropout,
            pre_norm=pre_norm,
        )

    def forward(
        self,
        x_BTD: Hidden,
        past: Past,
        sight: Tensor | None,
        shared_biases: tuple[Tensor, Tensor] | None,
        compute: Compute,
    ) -> tuple[Hidden, Tensor | None]:
        """Return what `compute` returns for this layer: the result of `plain`, or a faster equal.

        `compute` is called in here because ZeRO-3 gathers the layer's weights only in `forward`.
        """
        return compute(self, x_BTD, past, sight, shared_biases)

    def plain(
        self,
        x_BTD: Tensor,
        past: Past,
        hidden_keys: Tensor,
        shared_biases: tuple[Tensor, Tensor] | None,
        attend: Attend,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the layer's output, `[B, T, D]`, and the second result of `RelativeAttention`."""
        x_BTD, r_SHE = self.attention(x_BTD, past, hidden_keys, shared_biases, attend)
        return self.feed_forward(x_BTD), r_SHE
