"""Scoring texts side by side: every token of a text but its first, exactly once."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainer.config.recipe import ExperimentConfig, ScoringConfig
from trainer.data.comparable import absent_figures
from trainer.data.positions import Spans
from trainer.data.rows import Text, make_segment
from trainer.data.vocabulary.files import Ids, Vocabulary
from trainer.inference.figures import figures
from trainer.inference.score import Forward, nats_of
from trainer.inference.texts.encoded import Counts, EncodedTexts
from trainer.inference.texts.rows import Round, rounds
from trainer.protocol import Memory, Segment

Nats = npt.NDArray[np.float32]

#: So many passes are brought to the host together: a GPU is waited for once in all of them.
_PASSES = 32


class Texts(Text, Protocol):
    """Texts, one after another; as `trainer.inference.texts.encoded.EncodedTexts` has them."""

    @property
    def bounds(self) -> Sequence[int] | npt.NDArray[np.int64]:
        """Return the position of each text's first token, and the number of all tokens."""
        ...


class Reader(Forward, Protocol):
    """A trained model, such as `trainer.inference.trained.TrainedModel`."""

    @property
    def experiment(self) -> ExperimentConfig:
        """Return what was trained."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary."""
        ...

    @property
    def device(self) -> torch.device:
        """Return the device on which the model computes."""
        ...

    @property
    def module(self) -> nn.Module:
        """Return the model, a `trainer.protocol.RecurrentModel`."""
        ...

    def reading_memory(self, n_rows: int, mem_len: int) -> Memory:
        """Return memory of rows that have read nothing."""
        ...


class Predictor(Reader, Protocol):
    """A `Reader` whose module is called by itself, to predict."""

    def autocast(self) -> torch.autocast:
        """Return the context in which forward passes run."""
        ...


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The nats of a text, its counts and its figures.

    Attributes:
        counts: counts of the text.
        n_scored: tokens scored.
        loss_sum: nats of all scored tokens together.
        absent: figures that are None, with the reasons.
    """

    counts: Counts
    n_scored: int
    loss_sum: float
    absent: Mapping[str, str]

    @classmethod
    def of(
        cls, counts: Counts, *, n_scored: int, loss_sum: float, vocabulary: Vocabulary
    ) -> "Tally":
        """Return the tally of a text, which says itself which figures it has."""
        n_words, n_characters = counts.n_words, counts.n_characters
        absent = dict(
            absent_figures(counts.lost, vocabulary, n_words=n_words, n_characters=n_characters)
        )
        if not n_scored:
            nothing = "one token, and nothing to predict" if counts.n_tokens else "no token"
            absent = dict.fromkeys(("loss", "ppl", "ppl_word", "bpc"), nothing)
        tally = cls(counts=counts, n_scored=n_scored, loss_sum=loss_sum, absent=absent)
        endless = [name for name, value in tally.figures.items() if value and math.isinf(value)]
        absent |= dict.fromkeys(endless, "no finite number")
        return tally

    @property
    def figures(self) -> dict[str, float | None]:
        """Return loss, ppl, ppl_word and bpc, as `txl eval` defines them."""
        return figures(self.loss_sum / max(1, self.n_scored), self.counts, absent=self.absent)


@dataclass(frozen=True, kw_only=True, eq=False)
class TextScore:
    """The score of a text."""

    ids: Ids
    """The tokens, with the end of the text's last line or document where the vocabulary has one."""
    nats: Nats
    """Nats of every token but the first."""
    tally: Tally

    @property
    def loss_sum(self) -> float:
        """Return the nats of all tokens but the first together."""
        return self.tally.loss_sum

    @property
    def loss(self) -> float | None:
        """Return the mean nats per token; None for a text of one token or none."""
        return self.tally.figures["loss"]

    @property
    def ppl(self) -> float | None:
        """Return the perplexity per token."""
        return self.tally.figures["ppl"]

    @property
    def ppl_word(self) -> float | None:
        """Return the perplexity per word and line end; None where `tally.absent` says why."""
        return self.tally.figures["ppl_word"]

    @property
    def bpc(self) -> float | None:
        """Return the bits per character; None where `tally.absent` says why."""
        return self.tally.figures["bpc"]

    @property
    def n_words(self) -> int:
        """Return the number of words and line ends, as `txl prepare` counts them."""
        return self.tally.counts.n_words

    @property
    def n_characters(self) -> int:
        """Return the number of characters; bytes over a vocabulary of bytes."""
        return self.tally.counts.n_characters


def scores_of(reader: Reader, texts: EncodedTexts, *, scoring: ScoringConfig) -> list[TextScore]:
    """Return the score of each text, in order.

    Raises:
        InputError: the model does not tell the nats of single tokens.
    """
    nats = np.zeros(len(texts.tokens), np.float32)
    for position, nll in token_nats(reader, texts, scoring=scoring):
        nats[position : position + len(nll)] = nll
    scores = []
    for counts, (begin, end) in zip(texts.counts, pairwise(texts.bounds), strict=True):
        ids, its = texts.tokens[begin:end].astype(np.uint32), nats[begin + 1 : end]
        tally = Tally.of(
            counts,
            n_scored=len(its),
            loss_sum=float(its.sum(dtype=np.float64)),
            vocabulary=reader.vocabulary,
        )
        scores.append(TextScore(ids=ids, nats=its, tally=tally))
    return scores


def token_nats(
    reader: Reader, texts: Texts, *, scoring: ScoringConfig, rank: int = 0, n_ranks: int = 1
) -> Iterator[tuple[int, Nats]]:
    """Yield the nats of every token of every text but its first, each once, in no order.

    Args:
        reader: the model.
        texts: the tokens.
        scoring: lengths and number of rows.
        rank: which of the ranks this is, among which the rounds are divided.
        n_ranks: the number of these ranks.

    Yields:
        The position among all tokens of the first of neighbouring tokens, and their nats.

    Raises:
        InputError: the model does not tell the nats of single tokens.
    """
    reach = getattr(reader.module, "reach", None)
    for one in rounds(texts.bounds, scoring=scoring, reach=reach)[rank::n_ranks]:
        held: list[tuple[Spans, Tensor]] = []
        for spans, nll_BT in _passes(reader, texts, one, scoring):
            held.append((spans, nll_BT))
            if len(held) == _PASSES:
                yield from _told(held)
                held.clear()
        if held:
            yield from _told(held)


def segments(reader: Reader, texts: Texts, one: Round) -> Iterator[tuple[Spans, Segment]]:
    """Yield the segment of every forward pass of a round, with its spans."""
    experiment = reader.experiment
    for index in range(one.n_forwards):
        spans = one.spans(index)
        segment = make_segment(
            texts,
            spans,
            tgt_len=one.width,
            cutoffs=experiment.model.cutoffs,
            cut_documents=experiment.data.memory_reset == "document",
        )
        yield spans, segment.to(reader.device)


def _passes(
    reader: Reader, texts: Texts, one: Round, scoring: ScoringConfig
) -> Iterator[tuple[Spans, Tensor]]:
    """Run every forward pass of a round; yield its spans and the nats of its targets."""
    memory = reader.reading_memory(len(one.rows), scoring.mem_len)
    for spans, segment in segments(reader, texts, one):
        with torch.no_grad():
            output = reader(
                segment, memory, clamp_len=scoring.clamp_len, same_length=scoring.same_length
            )
        memory = output.memory
        yield spans, nats_of(output)


def _told(held: Sequence[tuple[Spans, Tensor]]) -> Iterator[tuple[int, Nats]]:
    """Yield the nats of each row's scored targets, which one copy brings to the host."""
    nll_PBT = torch.stack([nll_BT.float() for _, nll_BT in held]).cpu().numpy()
    for (spans, _), nll_BT in zip(held, nll_PBT, strict=True):
        for row in np.flatnonzero(spans.scored_B):
            begin, length = int(spans.begins_B[row]), int(spans.lengths_B[row])
            yield begin + 1, nll_BT[row, :length]
