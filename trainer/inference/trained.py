"""Trained models without DeepSpeed, for `trainer.load`, `txl eval` and `txl generate`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from trainer.config.precision import Precision
from trainer.config.recipe import ExperimentConfig
from trainer.data.rows import one_row
from trainer.data.vocabulary.files import Vocabulary, encode_given
from trainer.errors import InputError
from trainer.inference.generate import generate
from trainer.inference.sampling_options import Sampling
from trainer.model.memory import LayerInputs
from trainer.model.precision import autocast_of, compute_dtype_of
from trainer.protocol import Memory, Output, Segment, reading_memory


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A checkpoint's model in evaluation mode; it is a `trainer.inference.score.Forward`."""

    module: nn.Module
    experiment: ExperimentConfig
    vocabulary: Vocabulary
    path: Path
    saved: dict[str, Any]
    weights_hash: dict[str, str]
    """The hash of each file of weights, by name."""
    precision: Precision
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of memory."""
        return compute_dtype_of(self.precision)

    def autocast(self) -> torch.autocast:
        """Return the context in which forward passes run."""
        return autocast_of(self.precision, self.device)

    def __call__(
        self, segment: Segment, memory: Memory, *, clamp_len: int | None, same_length: bool
    ) -> Output:
        """Run a forward pass in the model's precision."""
        with self.autocast():
            output = self.module(segment, memory, clamp_len=clamp_len, same_length=same_length)
        return cast(Output, output)

    def reading_memory(self, n_rows: int, mem_len: int) -> Memory:
        """Return memory of rows that have read nothing."""
        return reading_memory(
            self.module, n_rows, mem_len=mem_len, dtype=self.dtype, device=self.device
        )

    def zero_memory(self, n_rows: int, mem_len: int) -> Memory:
        """Return the memory that fairseq begins with: inputs of zero, all of them valid."""
        module = cast(Any, self.module)
        memory: LayerInputs = module.empty_memory(
            n_rows, mem_len=mem_len, dtype=self.dtype, device=self.device
        )
        valid_B = torch.full_like(memory.valid_B, mem_len)
        return memory._replace(valid_B=valid_B, valid_min=mem_len)

    def nats(self, text: str) -> list[float]:
        """Return the nats of every token of `text` but the first, by the recipe's eval settings.

        Raises:
            InputError: the vocabulary cannot encode the text, or the model returns no nats per
                token.
        """
        scoring, cutoffs = self.experiment.eval, self.experiment.model.cutoffs
        ids = np.array(encode_given(self.vocabulary, text, what="the text"), np.int64)
        memory, nats = self.reading_memory(1, scoring.mem_len), list[float]()
        for begin in range(0, len(ids) - 1, scoring.tgt_len):
            piece = ids[begin : begin + scoring.tgt_len + 1]
            segment = one_row(piece[:-1], piece[1:], cutoffs=cutoffs).to(self.device)
            with torch.no_grad():
                output = self(
                    segment, memory, clamp_len=scoring.clamp_len, same_length=scoring.same_length
                )
            if output.nll_BT is None:
                raise InputError("this model does not tell the nats of single tokens")
            memory = output.memory
            nats += output.nll_BT[0].tolist()
        return nats

    def generate(self, prompt: str, *, n_tokens: int = 200, **sampling: Any) -> str:
        """Return a text that continues `prompt`; `sampling` takes the fields of `Sampling`.

        Raises:
            InputError: the vocabulary cannot encode the prompt, or a setting is out of range.
        """
        return "".join(self.stream(prompt, Sampling(n_tokens=n_tokens, **sampling)))

    def stream(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """Yield what `generate` returns, piece by piece; raise its errors at once."""
        pieces = generate(
            self.module,
            self.vocabulary,
            prompt=prompt,
            sampling=sampling,
            scoring=self.experiment.eval,
            cutoffs=self.experiment.model.cutoffs,
            dtype=self.dtype,
            device=self.device,
        )
        return self._in_precision(pieces)

    def _in_precision(self, pieces: Iterator[str]) -> Iterator[str]:
        with self.autocast():
            yield from pieces
