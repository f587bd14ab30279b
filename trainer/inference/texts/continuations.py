"""Texts given as ids: the nats of whole documents, and of what follows a beginning.

B rows · T segment · V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

import numpy as np
import torch

from trainer.config.recipe import ScoringConfig
from trainer.data.corpus import token_dtype
from trainer.data.positions import Spans
from trainer.inference.texts.encoded import Counts, EncodedTexts
from trainer.inference.texts.rows import Round, rounds
from trainer.inference.texts.scored import Predictor, Reader, scores_of, segments
from trainer.protocol import Segment


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """The score of the tokens that follow a beginning."""

    loss_sum: float
    """Nats of all of them together."""
    is_likeliest: bool
    """True if each of them is the likeliest after all tokens before it."""


def document_nats(
    reader: Reader, documents: Sequence[Sequence[int]], *, scoring: ScoringConfig
) -> list[float]:
    """Return the nats of each document's tokens but its first, with memory from its beginning.

    Raises:
        InputError: the model does not tell the nats of single tokens.
    """
    texts = _texts_of(documents, reader)
    return [score.loss_sum for score in scores_of(reader, texts, scoring=scoring)]


def continuations(
    reader: Predictor,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    scoring: ScoringConfig,
) -> list[Continuation]:
    """Score the second part of each pair after the first, which has a token at least.

    The two parts are read as one document from empty memory, however long. All words are predicted
    only in segments that hold tokens of a second part.
    """
    texts = _texts_of([[*begin, *rest] for begin, rest in pairs], reader)
    firsts = {low: low + len(begin) for low, (begin, _) in zip(texts.bounds, pairs, strict=False)}
    nats = dict.fromkeys(texts.bounds[:-1], 0.0)
    likeliest = dict.fromkeys(texts.bounds[:-1], True)
    for one in rounds(texts.bounds, scoring=scoring, reach=None):
        for low, loss_sum, is_likeliest in _round(reader, texts, one, firsts, scoring):
            nats[low] += loss_sum
            likeliest[low] &= is_likeliest
    return [
        Continuation(loss_sum=nats[low], is_likeliest=likeliest[low]) for low in texts.bounds[:-1]
    ]


def _texts_of(documents: Sequence[Sequence[int]], reader: Reader) -> EncodedTexts:
    bounds = tuple(accumulate(map(len, documents), initial=0))
    dtype = token_dtype(reader.vocabulary.size)
    return EncodedTexts(
        tokens=np.concatenate([np.empty(0, dtype), *(np.array(ids, dtype) for ids in documents)]),
        document_starts=np.unique([0, *bounds[:-1]]),
        bounds=bounds,
        counts=tuple(Counts(n_tokens=len(ids)) for ids in documents),
    )


def _round(
    reader: Predictor,
    texts: EncodedTexts,
    one: Round,
    firsts: dict[int, int],
    scoring: ScoringConfig,
) -> list[tuple[int, float, bool]]:
    """Read the rows of a round; return a document's first position and its score, in parts."""
    found = []
    memory = reader.reading_memory(len(one.rows), scoring.mem_len)
    lengths: dict[str, Any] = {"clamp_len": scoring.clamp_len, "same_length": scoring.same_length}
    for spans, segment in segments(reader, texts, one):
        # A pair's target is the token after the pair's own.
        begins_B = np.array([firsts[low] - 1 for low in spans.lows_B.tolist()]) - spans.begins_B
        with torch.no_grad(), reader.autocast():
            if (begins_B >= spans.lengths_B).all():
                memory = reader(segment, memory, **lengths).memory
                continue
            log_probs_BTV, memory = cast(Any, reader.module).predict(segment, memory, **lengths)
        found += _scored(log_probs_BTV, segment, spans, begins_B.tolist())
    return found


def _scored(
    log_probs_BTV: torch.Tensor, segment: Segment, spans: Spans, begins: list[int]
) -> list[tuple[int, float, bool]]:
    targets_BT = segment.targets_BT.clamp(min=0)
    log_probs_BT = log_probs_BTV.gather(2, targets_BT[..., None])[..., 0].double().cpu()
    is_best_BT = (log_probs_BTV.argmax(dim=2) == targets_BT).cpu()
    scored = []
    for row, (begin, length) in enumerate(zip(begins, spans.lengths_B.tolist(), strict=True)):
        its = slice(max(0, begin), length)
        nats, is_likeliest = -float(log_probs_BT[row, its].sum()), bool(is_best_BT[row, its].all())
        scored.append((int(spans.lows_B[row]), nats, is_likeliest))
    return scored
