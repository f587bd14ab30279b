"""Trained models without DeepSpeed, for `trainer.load`, `txl eval` and `txl generate`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from trainer.config.precision import Precision
from trainer.config.recipe import ExperimentConfig, ScoringConfig
from trainer.data.vocabulary.files import Vocabulary
from trainer.errors import InputError
from trainer.inference.generate import Predictor, following_ids, generate
from trainer.inference.improving.predicting import ImprovingPredictor
from trainer.inference.sampling_options import Sampling
from trainer.inference.settings import scoring_of
from trainer.inference.texts.encoded import encoded_strings
from trainer.inference.texts.reading import (
    Hidden,
    Prediction,
    Reading,
    TextMemory,
    hidden,
    no_hidden_states,
    predict,
    read,
)
from trainer.inference.texts.scored import TextScore, scores_of
from trainer.model.memory.inputs import LayerInputs
from trainer.model.precision import autocast_of, compute_dtype_of
from trainer.protocol import Memory, Output, Segment, reading_memory

T = TypeVar("T")


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
    second_moments: Mapping[str, Tensor] | None = None
    """The optimizer's, by parameter name, on the CPU; None unless they were asked for."""

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
        """Return the nats of every token of `text` but the first, as `read` does.

        Raises:
            InputError: for the reasons of `read`.
        """
        nats: list[float] = self.read(text).nats.tolist()
        return nats

    def score(
        self,
        texts: Sequence[str],
        *,
        tgt_len: int | None = None,
        mem_len: int | None = None,
        clamp_len: int | None = None,
        same_length: bool | None = None,
        batch_size: int | None = None,
    ) -> list[TextScore]:
        """Score texts, many at once: every token of a text but its first, exactly once.

        Each text is a document of its own, as in a corpus: the vocabulary's end of a line or
        document ends it, and is scored. `batch_size` rows are read side by side, which changes no
        result. Lengths that are None are those of the recipe's evaluations.

        Raises:
            InputError: a text is no text, the vocabulary lacks a symbol of it, a length is out of
                range, or the model does not tell the nats of single tokens.
        """
        scoring = scoring_of(
            self.experiment,
            tgt_len=tgt_len,
            mem_len=mem_len,
            clamp_len=clamp_len,
            same_length=same_length,
            batch_size=batch_size,
            warm="exact",
        )
        return scores_of(self, encoded_strings(texts, self.vocabulary), scoring=scoring)

    def read(self, text: str, *, memory: TextMemory | None = None) -> Reading:
        """Return the nats of a text's tokens, and the memory after it.

        With the memory of an earlier part of the same text, the parts have the nats of the whole
        text, wherever it is cut between two tokens; up to tgt_len tokens are then read again.
        Nothing is added at the end. The lengths are those of the recipe's evaluations.

        Raises:
            InputError: the vocabulary cannot encode the text, or the model does not tell the nats
                of single tokens.
        """
        return read(self, text, memory)

    def hidden(self, text: str, *, memory: TextMemory | None = None) -> Hidden:
        """Return the last layer's output at each token of a text, `[T, D]`, and the memory after.

        A memory goes in and out as in `read`.

        Raises:
            InputError: the vocabulary cannot encode the text, or the model, of others, has no
                method `hidden`.
        """
        return hidden(self, text, memory)

    def predict(self, text: str, *, memory: TextMemory | None = None) -> Prediction:
        """Return the log-probabilities of the token after a text, `[V]`, and the memory after it.

        A memory goes in and out as in `read`.

        Raises:
            InputError: the vocabulary cannot encode the text, or nothing was read.
        """
        return predict(self, text, memory)

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
            predictor=self._predictor(sampling, self.experiment.eval),
        )
        return self._in_precision(pieces)

    def following_ids(
        self, prompt: Sequence[int], sampling: Sampling, *, scoring: ScoringConfig
    ) -> Iterator[int]:
        """Yield the ids that follow those of a prompt, of which there is one at least."""
        ids = following_ids(
            self.module,
            list(prompt),
            sampling=sampling,
            scoring=scoring,
            cutoffs=self.experiment.model.cutoffs,
            dtype=self.dtype,
            device=self.device,
            predictor=self._predictor(sampling, scoring),
        )
        return self._in_precision(ids)

    def _predictor(self, sampling: Sampling, scoring: ScoringConfig) -> Predictor | None:
        """Return what predicts where reading improves; None where only memory does."""
        if not sampling.improves:
            return None
        if sampling.lacks_settings:
            raise InputError("give the settings of the cache or dynamic evaluation, see txl eval")
        if sampling.cache and not hasattr(self.module, "hidden"):
            raise InputError(no_hidden_states(self.module))
        return ImprovingPredictor(
            self.module,
            sampling.given,
            scoring=scoring,
            cutoffs=self.experiment.model.cutoffs,
            dtype=self.dtype,
            device=self.device,
            second_moments=self.second_moments,
        )

    def _in_precision(self, pieces: Iterator[T]) -> Iterator[T]:
        with self.autocast():
            yield from pieces
