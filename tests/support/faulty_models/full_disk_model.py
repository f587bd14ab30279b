"""For the tests of full disks: rank 1 of a job that builds this model writes no large file."""

import os
import resource

from torch import nn

from trainer.config.recipe import ModelConfig
from trainer.model.transformer_xl import TransformerXL


def build(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory full_disk_model:build`."""
    if os.environ["RANK"] == "1":
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # enough for its log
    return TransformerXL(config, vocabulary_size)
