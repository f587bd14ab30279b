"""Sampling text with the memory as the only cache: constant cost per token, at any length.

Another `Predictor` may take the place of that, see `trainer.inference.improving.predicting`.

A prompt is read in pieces of tgt_len, then every token by itself. With `same_length` a token sees M
tokens including itself; without it, itself, those before it in its piece, and the M before that. So
with `same_length` the text at temperature 0 does not depend on how it is cut into segments; without
it, as long as the text fits the memory. V vocabulary · T tgt_len · M mem_len.
"""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from trainer.config.recipe import ScoringConfig
from trainer.data.rows import one_row
from trainer.data.vocabulary.files import Vocabulary, encode_given
from trainer.host_cpu import multiplying_few_rows
from trainer.inference.drawing import all_known, draw
from trainer.inference.sampling_options import Sampling
from trainer.model.adaptive import LogProbs
from trainer.protocol import IGNORED, Memory, Segment, reading_memory

#: How many tokens already written are decoded again with new ones, as their context.
_CONTEXT = 4


def generate(
    model: Any,
    vocabulary: Vocabulary,
    *,
    prompt: str,
    sampling: Sampling,
    scoring: ScoringConfig,
    cutoffs: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    predictor: "Predictor | None" = None,
) -> Iterator[str]:
    """Yield the text that continues `prompt`, in pieces of whole characters, as it is made.

    Args:
        model: a `RecurrentModel` in evaluation mode.
        vocabulary: the model's vocabulary.
        prompt: text to continue; an empty prompt means the end of a line or document.
        sampling: how to choose tokens; its seed starts a generator of its own.
        scoring: lengths of memory and of the pieces of the prompt.
        cutoffs: the cutoffs of the model's adaptive softmax.
        dtype: the dtype of memory.
        device: the model's device.
        predictor: what predicts; None is the model, with its memory as the only cache.

    Raises:
        InputError: the vocabulary cannot encode the prompt.
    """
    ids = encode_given(vocabulary, prompt, what="the prompt") or [vocabulary.eos_id or 0]
    how: dict[str, Any] = {"cutoffs": cutoffs, "dtype": dtype, "device": device}
    how["predictor"] = predictor
    tokens = following_ids(model, ids, sampling=sampling, scoring=scoring, **how)
    pieces = _whole_characters(vocabulary, ids, tokens)
    return pieces if sampling.stop is None else _before(sampling.stop, pieces)


def following_ids(
    model: Any,
    prompt: list[int],
    *,
    sampling: Sampling,
    scoring: ScoringConfig,
    cutoffs: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    predictor: "Predictor | None" = None,
) -> Iterator[int]:
    """Yield the ids that follow those of `prompt`, of which there is one at least.

    The arguments are those of `generate`; `sampling.stop` is not looked at.
    """
    if predictor is None:
        memory = reading_memory(model, 1, mem_len=scoring.mem_len, dtype=dtype, device=device)
        predictor = PlainPredictor(model, memory, scoring, cutoffs, device)
    return _sample(predictor, prompt, sampling)


def _sample(predictor: "Predictor", prompt: list[int], sampling: Sampling) -> Iterator[int]:
    """Yield the token ids that continue `prompt`."""
    draws = torch.Generator().manual_seed(sampling.seed)
    predictor.take_in(prompt)
    token = prompt[-1]
    for _ in range(sampling.n_tokens):
        token = draw(predictor.log_probs_after(token), sampling, draws)
        yield token


class Predictor(Protocol):
    """A continuation of one text, asked for token by token."""

    def take_in(self, prompt: list[int], /) -> None:
        """Read all of a prompt but its last token."""
        ...

    def log_probs_after(self, token: int, /) -> LogProbs:
        """Read a token; return the log-probabilities of the next, `[1, V]`."""
        ...


def pieces_of(
    prompt: list[int], tgt_len: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield all of a prompt but its last token in pieces of tgt_len, each with its targets."""
    ids = np.array(prompt, np.int64)
    for begin in range(0, len(ids) - 1, tgt_len):
        targets_T = ids[begin + 1 : begin + 1 + tgt_len]
        yield ids[begin : begin + len(targets_T)], targets_T


def ids_of(ids: list[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return tokens, and that none of them has a target."""
    tokens_T = np.array(ids, np.int64)
    return tokens_T, np.full_like(tokens_T, IGNORED)


@dataclass
class PlainPredictor:
    """A model, and its memory of the one text that it continues."""

    model: Any
    memory: Memory
    scoring: ScoringConfig
    cutoffs: tuple[int, ...]
    device: torch.device

    def __post_init__(self) -> None:
        """Find out how the next token is asked for."""
        self._predict_next = getattr(self.model, "predict_next", None)
        if self._predict_next is not None and not all(p.numel() for p in self.model.parameters()):
            self._predict_next = None  # ZeRO-3 has the weights only while it calls a module

    @torch.no_grad()
    def take_in(self, prompt: list[int]) -> None:
        """Read all of a prompt but its last token, in pieces of tgt_len, and predict nothing."""
        for tokens_T, _ in pieces_of(prompt, self.scoring.tgt_len):
            segment = self._segment(tokens_T.tolist())
            self.memory = self.model(segment, self.memory, **self._lengths).memory

    @torch.no_grad()
    def log_probs_after(self, token: int) -> LogProbs:
        """Read `token` into memory; return the log-probabilities of the next, `[1, V]`."""
        segment = self._segment([token])
        with multiplying_few_rows() if self.device.type == "cpu" else nullcontext():
            if self._predict_next is not None:
                found, self.memory = self._predict_next(segment, self.memory, **self._lengths)
                return cast(LogProbs, found)
            log_probs_BTV, self.memory = self.model.predict(segment, self.memory, **self._lengths)
        return all_known(log_probs_BTV[:, -1], self.cutoffs)

    @property
    def _lengths(self) -> dict[str, Any]:
        return {"clamp_len": self.scoring.clamp_len, "same_length": self.scoring.same_length}

    def _segment(self, ids: list[int]) -> Segment:
        return one_row(*ids_of(ids), cutoffs=self.cutoffs).to(self.device)


def _whole_characters(
    vocabulary: Vocabulary, prompt: list[int], tokens: Iterable[int]
) -> Iterator[str]:
    """Yield the text of `tokens` after `prompt`; a token that ends inside a character waits."""
    written = prompt[-_CONTEXT:]
    pending: list[int] = []
    for token in tokens:
        text = _continuation(vocabulary, written, [*pending, token])
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text
            written, pending = [*written, *pending, token][-_CONTEXT:], []
            continue
        before = _continuation(vocabulary, written, pending)
        if pending and before + vocabulary.decode([token]) == text:
            # The token begins a new character, so the bytes before it never become text.
            yield before
            written, pending = [*written, *pending][-_CONTEXT:], []
        pending.append(token)
    if pending:
        yield _continuation(vocabulary, written, pending)


def _continuation(vocabulary: Vocabulary, written: list[int], pending: list[int]) -> str:
    """Return the text of `pending` after `written`; a word, for example, begins with its space."""
    return vocabulary.decode(written + pending)[len(vocabulary.decode(written)) :]


def _before(stop: str, pieces: Iterable[str]) -> Iterator[str]:
    """Yield the text of `pieces` before the first `stop`; hold back what may begin a `stop`."""
    held = ""
    for piece in pieces:
        held += piece
        text, reached, _ = held.partition(stop)
        if not reached:
            longest = min(len(stop) - 1, len(held))
            n_held = next(n for n in range(longest, -1, -1) if held.endswith(stop[:n]))
            text = held[: len(held) - n_held]
            held = held[len(text) :]
        if text:
            yield text
        if reached:
            return
    if held:
        yield held
