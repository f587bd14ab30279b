"""An LSTM of the package that knows its weights by the names of another program, too."""

from typing import Any

from torch import Tensor, nn

from trainer.config.recipe import ModelConfig
from trainer.model.families.lstm import Options
from trainer.model.families.lstm import build as build_lstm

#: What the other program puts before each name.
PREFIX = "backbone."


def build(config: ModelConfig, vocabulary_size: int, options: Options) -> nn.Module:
    """Build the model."""
    model: Any = build_lstm(config, vocabulary_size, options)

    def translated_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}

    model.translated_weights = translated_weights
    return model
