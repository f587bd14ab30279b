"""For the tests of reading ahead: a process that builds this model reads ahead as on a GPU."""

from poisoned_model import PoisonedXL
from torch import nn

from trainer.config.recipe import ModelConfig
from trainer.data import read_ahead


def build(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory reading_ahead_model:build`."""
    read_ahead.AHEAD["cpu"] = read_ahead.AHEAD["cuda"]
    return PoisonedXL(config, vocabulary_size)
