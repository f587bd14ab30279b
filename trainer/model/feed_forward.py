"""The feed-forward half of a layer, after attention.

B streams · T tgt_len · D d_model · F d_inner.
"""

from torch import Tensor, nn

from trainer.model.dropout import dropout, relu_dropout


class FeedForward(nn.Module):
    """Two linear layers around a ReLU, with their residual connection and LayerNorm."""

    def __init__(self, *, d_model: int, d_inner: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.dropout, self.pre_norm = dropout, pre_norm
        self.inner = nn.Linear(d_model, d_inner)
        self.outer = nn.Linear(d_inner, d_model)
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the half's output, `[B, T, D]`."""
        inner_BTF: Tensor = self.inner(self.norm(x_BTD) if self.pre_norm else x_BTD)
        inner_BTF = relu_dropout(inner_BTF, self.dropout, training=self.training)
        out_BTD = x_BTD + dropout(self.outer(inner_BTF), self.dropout, training=self.training)
        return out_BTD if self.pre_norm else self.norm(out_BTD)
