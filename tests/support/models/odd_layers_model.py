"""Models for the tests of ZeRO-3: Transformer-XL with one layer in every place, or half frozen."""

from torch import nn

from trainer.config.recipe import ModelConfig
from trainer.model.transformer_xl import TransformerXL


def build_shared(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory odd_layers_model:build_shared`."""
    model = TransformerXL(config, vocabulary_size)
    model.layers = nn.ModuleList([model.layers[0]] * config.n_layer)
    return model


def build_frozen(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory odd_layers_model:build_frozen`."""
    model = TransformerXL(config, vocabulary_size)
    model.layers[0].requires_grad_(requires_grad=False)
    return model
