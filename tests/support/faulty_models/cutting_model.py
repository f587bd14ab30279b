"""For the tests of corpora that change under a run: this model spoils the one it is trained on."""

import os

import numpy as np
from torch import nn

from trainer.config.recipe import ModelConfig
from trainer.model.transformer_xl import TransformerXL
from trainer.protocol import Output


class CuttingXL(TransformerXL):
    """A model whose third training pass cuts the file that CUT names, or turns CHANGED round."""

    n_passes = 0

    def forward(self, *given: object, **how: object) -> Output:
        self.n_passes += self.training
        if self.n_passes == 3:
            if changed := os.environ.get("CHANGED"):
                np.fromfile(changed, np.uint16)[::-1].tofile(changed)
            else:
                os.truncate(os.environ["CUT"], 1000)
        return super().forward(*given, **how)  # type: ignore[arg-type]


def build(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory cutting_model:build`."""
    return CuttingXL(config, vocabulary_size)
