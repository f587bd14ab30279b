"""From a configuration to a model: ours, or a third party's factory."""

import importlib

import torch
from torch import nn

from trainer.config import ModelConfig
from trainer.errors import InputError
from trainer.model.transformer_xl import TransformerXL


def build_model(config: ModelConfig, *, vocabulary_size: int, seed: int) -> nn.Module:
    """Build and initialise the model on the CPU in fp32; every rank gets the same weights.

    Raises:
        InputError: the cutoffs do not fit the vocabulary, or the factory cannot be imported or
            builds no `trainer.protocol.RecurrentModel`.
    """
    if config.cutoffs and config.cutoffs[-1] >= vocabulary_size:
        raise InputError(
            f"model.cutoffs {list(config.cutoffs)} do not fit a vocabulary of {vocabulary_size:,}: "
            f"the last must be below it; set --model.cutoffs"
        )
    torch.manual_seed(seed)
    if config.factory is None:
        return TransformerXL(config, vocabulary_size)
    package, _, name = config.factory.partition(":")
    try:
        build = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"model.factory {config.factory!r}: {error}") from None
    model = build(config, vocabulary_size)
    lacking = [name for name in ("empty_memory", "forward", "predict") if not hasattr(model, name)]
    if lacking or not isinstance(model, nn.Module):
        raise InputError(
            f"model.factory {config.factory!r} gives a {type(model).__name__} without "
            f"{', '.join(lacking) or 'being an nn.Module'}: see trainer.protocol.RecurrentModel"
        )
    return model
