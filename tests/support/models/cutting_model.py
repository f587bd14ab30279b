"""For the tests of corpora that change under a run: this model cuts the one it is trained on."""

import os

from torch import nn

from trainer.config.recipe import ModelConfig
from trainer.model.transformer_xl import TransformerXL
from trainer.protocol import Output


class CuttingXL(TransformerXL):
    """A model that in its third training pass cuts the file that the variable CUT names."""

    n_passes = 0

    def forward(self, *given: object, **how: object) -> Output:
        self.n_passes += self.training
        if self.n_passes == 3:
            os.truncate(os.environ["CUT"], 1000)
        return super().forward(*given, **how)  # type: ignore[arg-type]


def build(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory cutting_model:build`."""
    return CuttingXL(config, vocabulary_size)
