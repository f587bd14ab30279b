"""Sampling text with the memory as the only cache: constant cost per token, at any length."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.config import ScoringConfig
from trainer.data.rows import clusters_of
from trainer.data.vocabulary import Vocabulary
from trainer.protocol import IGNORED, Memory, Segment

#: Newest tokens that a decoder is shown again, so that it knows what it continues.
_CONTEXT = 4


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    n_tokens: int
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    seed: int = 0


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
) -> Iterator[str]:
    """Yield pieces of text that continue `prompt`, as soon as they are whole characters.

    Args:
        model: a `RecurrentModel` in evaluation mode.
        vocabulary: of the model.
        prompt: text to continue; an empty one begins at token 0.
        sampling: how tokens are chosen, from a generator of its own.
        scoring: lengths of memory and prompt pieces.
        cutoffs: of the model's adaptive softmax.
        dtype: of the memory.
        device: of the model.
    """
    ids = vocabulary.encode(prompt) or [0]
    written = ids[-_CONTEXT:]
    pending: list[int] = []
    for new in _sample(model, ids, sampling, scoring, cutoffs, dtype, device):
        pending.append(new)
        text = _continuation(vocabulary, written, pending)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # else a character is incomplete
            yield text
            written, pending = (written + pending)[-_CONTEXT:], []
    if pending:
        yield _continuation(vocabulary, written, pending)


def _continuation(vocabulary: Vocabulary, written: list[int], pending: list[int]) -> str:
    """Text of `pending` where it follows `written`: a word, for one, begins with its space."""
    return vocabulary.decode(written + pending)[len(vocabulary.decode(written)) :]


def _sample(
    model: Any, prompt: list[int], sampling: Sampling, scoring: ScoringConfig,
    cutoffs: tuple[int, ...], dtype: torch.dtype, device: torch.device,
) -> Iterator[int]:  # fmt: skip
    """Token ids that continue `prompt`."""
    memory: Memory = model.empty_memory(1, mem_len=scoring.mem_len, dtype=dtype, device=device)
    draws = torch.Generator().manual_seed(sampling.seed)
    last = (len(prompt) - 1) // scoring.tgt_len * scoring.tgt_len
    for begin in range(0, last, scoring.tgt_len):
        piece = prompt[begin : begin + scoring.tgt_len]
        _, memory = _read(model, piece, memory, scoring, cutoffs, device)
    unread = prompt[last:]
    for _ in range(sampling.n_tokens):
        log_probs_V, memory = _read(model, unread, memory, scoring, cutoffs, device)
        unread = [_choose(log_probs_V, sampling.temperature, draws)]
        yield unread[0]


def _read(
    model: Any, ids: list[int], memory: Memory, scoring: ScoringConfig,
    cutoffs: tuple[int, ...], device: torch.device,
) -> tuple[Tensor, Memory]:  # fmt: skip
    """Log-probabilities of what follows `ids`, and the memory after them."""
    tokens_BT = np.array([ids], np.int64)
    segment = Segment(
        tokens_BT=torch.from_numpy(tokens_BT),
        targets_BT=torch.full(tokens_BT.shape, IGNORED),
        lengths_B=torch.tensor([len(ids)]),
        starts_BT=None,
        token_clusters=clusters_of(tokens_BT, cutoffs),
        target_clusters=(),
        n_tokens=0,
        whole=True,
    ).to(device)
    with torch.no_grad():
        log_probs_BTV, memory = model.predict(
            segment, memory, clamp_len=scoring.clamp_len, same_length=scoring.same_length
        )
    return log_probs_BTV[0, -1].cpu(), memory


def _choose(log_probs_V: Tensor, temperature: float, draws: torch.Generator) -> int:
    if temperature == 0:
        return int(log_probs_V.argmax())
    weights_V = (log_probs_V / temperature).softmax(dim=-1)
    return int(torch.multinomial(weights_V, 1, generator=draws))
