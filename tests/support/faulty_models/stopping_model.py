"""A model for the tests of stopping: Transformer-XL told to stop in a validation."""

import os
import signal

from torch import nn

from trainer.config.recipe import ModelConfig
from trainer.model.transformer_xl import TransformerXL

#: Whether this process was told, which it is once.
_told: list[bool] = []


def stop(model: nn.Module, _: object) -> None:
    """Send SIGTERM to this process in the first validation of all."""
    if not model.training and not _told:
        _told.append(True)
        os.kill(os.getpid(), signal.SIGTERM)


def build(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory stopping_model:build`."""
    model = TransformerXL(config, vocabulary_size)
    model.register_forward_pre_hook(stop)
    return model
