"""Sampling that improves: what is read and drawn goes into a cache, and the prompt is learnt.

B rows, here one · T tokens of a segment · D width · V vocabulary.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.recipe import ScoringConfig
from trainer.data.rows import one_row
from trainer.inference.drawing import all_known
from trainer.inference.generate import PlainPredictor, ids_of, pieces_of
from trainer.inference.improving.cache import empty_cache, remembered, seen
from trainer.inference.improving.dynamic import Learner
from trainer.model.adaptive import LogProbs
from trainer.protocol import Memory, Segment, forward_with_hidden, reading_memory
from trainer.track.method import Cache, Method


class ImprovingPredictor:
    """A `trainer.inference.generate.Predictor` of one text, by a method that improves."""

    def __init__(
        self,
        module: nn.Module,
        method: Method,
        *,
        scoring: ScoringConfig,
        cutoffs: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        second_moments: Mapping[str, Tensor] | None,
    ) -> None:
        """Begin with empty memory; the module stays as it is.

        Raises:
            InputError: second moments are missing.
        """
        self._scoring, self._cutoffs, self._device = scoring, cutoffs, device
        self._learner: Learner | None = None
        if method.dynamic is not None:
            self._learner = Learner(
                module,
                method.dynamic,
                tgt_len=scoring.tgt_len,
                second_moments=second_moments,
            )
            of_model, module = self._learner.first_memory(1, scoring.mem_len), self._learner.model
        else:
            of_model = reading_memory(
                module, 1, mem_len=scoring.mem_len, dtype=dtype, device=device
            )
        self._model: Any = module
        self._cache, self._memory = method.cache, empty_cache(of_model, 1, device)

    @torch.no_grad()
    def take_in(self, prompt: list[int]) -> None:
        """Read all of a prompt but its last token; learn each piece of it, if anything learns."""
        for piece in pieces_of(prompt, self._scoring.tgt_len):
            segment = one_row(*piece, cutoffs=self._cutoffs).to(self._device)
            if self._learner is None:
                output, hidden_BTD = forward_with_hidden(
                    self._model, segment, self._memory.of_model, **self._lengths
                )
                self._remember(segment, hidden_BTD, output.memory)
            elif self._cache is None:
                output = self._learner(segment, self._memory.of_model, **self._lengths)
                self._memory = self._memory._replace(of_model=output.memory)
            else:
                read = self._learner.states
                output, hidden_BTD = read(segment, self._memory.of_model, **self._lengths)
                self._remember(segment, hidden_BTD, output.memory)
        if self._learner is not None:
            self._model.requires_grad_(False)  # words of a tail are computed whenever asked for

    @torch.no_grad()
    def log_probs_after(self, token: int) -> LogProbs:
        """Read `token` into memory; return the log-probabilities of the next, `[1, V]`."""
        with self._precision():
            if self._cache is None:
                plain = PlainPredictor(
                    self._model,
                    self._memory.of_model,
                    self._scoring,
                    self._cutoffs,
                    self._device,
                )
                found = plain.log_probs_after(token)
                self._memory = self._memory._replace(of_model=plain.memory)
                return found
            segment = one_row(*ids_of([token]), cutoffs=self._cutoffs).to(self._device)
            log_probs_V, hidden_BTD, after = self._words(segment)
        of_cache = seen(self._memory, segment, hidden_BTD, n_states=self._cache.states)
        n_words = len(log_probs_V)
        cache_V = of_cache.log_probs(self._cache.flatness, n_words=n_words)[0, -1]
        self._remember(segment, hidden_BTD, after)
        return all_known(mixed_words(log_probs_V, cache_V, self._cache)[None], self._cutoffs)

    def _words(self, segment: Segment) -> tuple[Tensor, Tensor, Memory]:
        """Return log-probabilities after a segment, its states, and the model's memory."""
        of_model = self._memory.of_model
        hidden_BTD, after = self._model.hidden(segment, of_model, **self._lengths)
        if hasattr(self._model, "words_after"):
            return self._model.words_after(hidden_BTD[:, -1]).of_all()[0], hidden_BTD, after
        log_probs_BTV, after = self._model.predict(segment, of_model, **self._lengths)
        return log_probs_BTV[0, -1], hidden_BTD, after

    def _remember(self, segment: Segment, hidden_BTD: Tensor, after: Memory) -> None:
        n_states = 1 if self._cache is None else self._cache.states
        self._memory = remembered(self._memory, segment, hidden_BTD, after, n_states=n_states)

    @property
    def _lengths(self) -> dict[str, Any]:
        return {"clamp_len": self._scoring.clamp_len, "same_length": self._scoring.same_length}

    def _precision(self) -> AbstractContextManager[Any]:
        """Return the context of a pass: weights that were learnt are computed with as they are."""
        if self._learner is None:
            return nullcontext()
        return torch.autocast(self._device.type, enabled=False)


def mixed_words(log_probs: Tensor, of_cache: Tensor, cache: Cache) -> Tensor:
    """Return the log-probabilities of the mixture; where the cache's are nan, the model's."""
    logs = math.log1p(-cache.weight) + log_probs, math.log(cache.weight) + of_cache
    return torch.where(of_cache.isnan(), log_probs, torch.logaddexp(*logs))
