"""For the tests of corpora that change under a run: this model cuts the one it is trained on."""

import os

from torch import nn

from trainer.config.recipe import ModelConfig
from trainer.model.transformer_xl import TransformerXL
from trainer.protocol import Output


class CuttingXL(TransformerXL):
    """It cuts the file that the environment variable CUT names in its third training pass."""

    n_passes = 0

    def forward(self, *given: object, **how: object) -> Output:
        self.n_passes += self.training
        if self.n_passes == 3:
            os.truncate(os.environ["CUT"], 1000)
        return super().forward(*given, **how)  # type: ignore[arg-type]


def build(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """What `--model.factory cutting_model:build` calls."""
    return CuttingXL(config, vocabulary_size)
