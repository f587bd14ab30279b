"""A model for the tests of stopping: Transformer-XL told to stop in an evaluation."""

import os
import signal

from torch import nn

from trainer.config import ModelConfig
from trainer.model.transformer_xl import TransformerXL
from trainer.protocol import Memory, Output, Segment

#: Whether this process was told, which it is once.
_told: list[bool] = []


class StoppingXL(TransformerXL):
    """Sends SIGTERM to its own process in the first evaluation of all."""

    def forward(
        self, segment: Segment, memory: Memory, *,
        clamp_len: int | None = None, same_length: bool = False,
    ) -> Output:  # fmt: skip
        if not self.training and not _told:
            _told.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(segment, memory, clamp_len=clamp_len, same_length=same_length)


def build(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """What `--model.factory stopping_model:build` calls."""
    return StoppingXL(config, vocabulary_size)
