"""Transformer-XL that fails in the forward pass whose number is in the variable FAILS_AT."""

import itertools
import os
from typing import Any

from torch import nn

from trainer.config.recipe import ModelConfig
from trainer.model.transformer_xl import TransformerXL


def build(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory failing_model:build`."""
    model = TransformerXL(config, vocabulary_size)
    passes = itertools.count(1)

    def fail(*_: Any) -> None:
        if str(next(passes)) == os.environ.get("FAILS_AT"):
            raise ValueError("planted")

    model.register_forward_pre_hook(fail)
    return model
