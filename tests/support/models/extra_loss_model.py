"""Transformer-XL with extra losses, for the tests of those."""

from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from trainer.config.recipe import ModelConfig
from trainer.model.transformer_xl import TransformerXL
from trainer.protocol import IGNORED, Output, Segment


class Options(BaseModel):
    """The kinds of extra losses."""

    share: float = Field(0.5, description="the extra loss `share` is so much of the nats")
    joined: bool = Field(False, description="add the extra losses to the nats, and name none")
    poison: int | None = Field(None, description="of segments with this token `size` is no number")


class Size(nn.Module):
    """A weight whose size is a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, n_B: Tensor) -> Tensor:
        """Return the loss of tokens of which each row has `n_B`."""
        return n_B.sum() * self.weight.float().square().mean()


class ExtraXL(TransformerXL):
    """A model with a loss that follows its nats, and one that follows a weight."""

    def __init__(self, config: ModelConfig, vocabulary_size: int, options: Options) -> None:
        super().__init__(config, vocabulary_size)
        self.options = options
        self.size = Size()

    def forward(self, segment: Segment, memory: Any, **lengths: Any) -> Output:
        """Compute as the parent does, with extra losses in training."""
        output = super().forward(segment, memory, **lengths)
        if not self.training:
            return output
        extra = {"size": self._size(segment), "share": self.options.share * output.loss_sum}
        if self.options.joined:
            return output._replace(loss_sum=sum(extra.values(), output.loss_sum))
        return output._replace(extra=extra)

    def _size(self, segment: Segment) -> Tensor:
        size: Tensor = self.size((segment.targets_BT != IGNORED).sum(1))
        if self.options.poison is None:
            return size
        is_poisoned = (segment.tokens_BT == self.options.poison).any()
        return size * size.new_ones(()).where(~is_poisoned, float("nan"))


def build(config: ModelConfig, vocabulary_size: int, options: Options) -> nn.Module:
    """Build the model of `--model.factory extra_loss_model:build`."""
    return ExtraXL(config, vocabulary_size, options)
