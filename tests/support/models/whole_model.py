"""Transformer-XL as a third party's model, which every rank builds whole at stage 3, too."""

from torch import nn

from trainer.config.recipe import ModelConfig
from trainer.model.transformer_xl import TransformerXL


def build(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory whole_model:build`."""
    return TransformerXL(config, vocabulary_size)
