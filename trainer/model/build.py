"""Building a model from a configuration: Transformer-XL, or one from a factory."""

from typing import NamedTuple

import torch
from torch import nn

from trainer.config.factory import imported, named, options_for, told
from trainer.config.recipe import ModelConfig
from trainer.errors import InputError
from trainer.model.initialise import Fills
from trainer.model.transformer_xl import TransformerXL

#: In a vocabulary of fewer words clusters save nothing.
_WORTH_CUTTING = 5000


def build_model(config: ModelConfig, *, vocabulary_size: int, seed: int) -> nn.Module:
    """Build and initialise the model on the CPU in fp32; every rank gets the same weights.

    Raises:
        InputError: the cutoffs do not fit the vocabulary, or the factory cannot be imported or
            builds no `trainer.protocol.RecurrentModel`.
    """
    check_cutoffs(config, vocabulary_size)
    torch.manual_seed(seed)
    if config.builder is None:
        return TransformerXL(config, vocabulary_size)
    return _other_model(config, vocabulary_size)


class Unbuilt(NamedTuple):
    """A model on `meta`, and the values that it gets where it is cut into parts."""

    model: nn.Module
    fills: Fills


def build_in_parts(config: ModelConfig, *, vocabulary_size: int, seed: int) -> Unbuilt:
    """Build the Transformer-XL of `build_model` without its weights, to be filled part by part.

    Nothing else may draw from torch's global generator while it is filled.

    Raises:
        InputError: the cutoffs do not fit the vocabulary.
    """
    assert config.builder is None, "what another's constructor draws is not known"
    check_cutoffs(config, vocabulary_size)
    with torch.device("meta"):
        model = TransformerXL(config, vocabulary_size)

    def seeded() -> Fills:
        torch.manual_seed(seed)
        yield from model.fills()

    return Unbuilt(model, seeded())


def _other_model(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build a model by the configuration's factory; the caller has checked that it may run."""
    assert config.builder is not None
    where, build = named(config.builder), imported(config.builder)
    options = options_for(config, build)
    try:
        model = build(config, vocabulary_size, **options)
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{where} fails: {told(error)}") from error
    lacking = [name for name in ("empty_memory", "forward", "predict") if not hasattr(model, name)]
    if not isinstance(model, nn.Module) or lacking:
        raise InputError(
            f"{where} gives a {type(model).__name__} without "
            f"{', '.join(lacking) or 'being an nn.Module'}: see trainer.protocol.RecurrentModel"
        )
    return model


def check_cutoffs(config: ModelConfig, vocabulary_size: int) -> None:
    """Raise `InputError` if the cutoffs do not fit the vocabulary."""
    if config.cutoffs and config.cutoffs[-1] >= vocabulary_size:
        raise InputError(
            f"model.cutoffs {list(config.cutoffs)} do not fit a vocabulary of {vocabulary_size:,}: "
            f"the last must be below it; use --model.cutoffs{_that_fit(config, vocabulary_size)}"
        )


def _that_fit(config: ModelConfig, vocabulary_size: int) -> str:
    """Return cutoffs that fit the vocabulary, as the command line spells them.

    If none of the configured cutoffs fits, they are scaled down in proportion. For a vocabulary too
    small to be cut, the flag comes without a number, which means a full softmax.
    """
    fitting = [cutoff for cutoff in config.cutoffs if cutoff < vocabulary_size]
    if not fitting and vocabulary_size < _WORTH_CUTTING:
        return " (without a number: a full softmax)"
    if not fitting:
        scale = vocabulary_size / (config.cutoffs[0] + config.cutoffs[-1])
        fitting = sorted({max(1, int(cutoff * scale)) for cutoff in config.cutoffs})
    return "".join(f" {cutoff}" for cutoff in fitting)
