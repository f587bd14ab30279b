"""A linear layer and a norm that another function may compute.

That function runs inside the forward pass of the module that owns the parameters: there alone
ZeRO-3 has gathered them.
"""

from collections.abc import Callable

from torch import Tensor, nn

Compute = Callable[..., Tensor]
"""Of the weight, the bias or None, and the input tensors."""


class Linear(nn.Linear):
    """PyTorch's, unless told otherwise."""

    def forward(self, x: Tensor, compute: Compute | None = None) -> Tensor:
        """`[…, out]` of `[…, in]`, or what `compute` makes."""
        return super().forward(x) if compute is None else compute(self.weight, self.bias, x)


class LayerNorm(nn.LayerNorm):
    """PyTorch's, unless told otherwise."""

    def forward(
        self, x: Tensor, branch: Tensor | None = None, compute: Compute | None = None
    ) -> Tensor:
        """`x` normalised, or what `compute` makes of it and of the `branch` to be added."""
        if compute is None:
            return super().forward(x if branch is None else x + branch)
        return compute(self.weight, self.bias, x, branch)
