"""Scoring text: every token but the first exactly once, for any batch size and number of ranks.

The split's P targets are cut into ⌈P/T⌉ segments at multiples of T = tgt_len. Each row scores a
contiguous run of segments. Before its run it reads earlier segments without scoring them, until its
memory is what one long pass would have: as many as the model's reach, of Transformer-XL
n_layer·⌈mem_len/tgt_len⌉ segments. A model that looks back without end reads the text from its
beginning in each row.

With `same_length` every query sees mem_len keys wherever its segment begins. So longer segments
than those asked for give the same nats, several times faster.

fairseq counts differently. It predicts only inside chunks of tgt_len tokens, so the last target of
every whole chunk is never scored. Its memory begins with zeros, to which queries attend.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trainer.config.recipe import ScoringConfig
from trainer.data.corpus import Split
from trainer.data.positions import Spans
from trainer.data.rows import make_segment
from trainer.distributed import World, sum_floats
from trainer.errors import InputError
from trainer.inference.figures import figures
from trainer.protocol import Memory, Output, Reach, Segment, layered


class Forward(Protocol):
    """A model, or an engine around one."""

    def __call__(
        self, segment: Segment, memory: Memory, *, clamp_len: int | None, same_length: bool
    ) -> Output:
        """Read a segment."""
        ...


@dataclass(frozen=True, kw_only=True)
class Score:
    """Result of scoring a split."""

    loss: float
    """Mean nats per token."""
    n_tokens: int
    """Tokens scored."""
    loss_sum: float
    """Nats."""
    seconds: float

    def metrics(self, split: Split) -> dict[str, float | None]:
        """Return loss, ppl, ppl_word and bpc; words and characters are counted in the text.

        `ppl_word` and `bpc` are None if the split's ids hold too little of its text, see
        `Split.absent`.
        """
        return figures(self.loss, split, absent=split.absent)


#: The refusal of a model that only has sums, where nats of tokens are needed.
NO_NATS = (
    "the model does not tell the nats of single tokens (its Output.nll_BT is None): let its "
    "forward return them (txl eval takes it as it is, without --per-token and --as-fairseq)"
)

#: The fixed cost of a forward pass: as much as so many tokens of every row.
FORWARD_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class ScorePlan:
    """The segments that each row of a rank reads.

    Args:
        n_pairs: P, the number of targets of the split.
        scoring: lengths and batch size; segments have its tgt_len.
        reach: how far back the model looks.
        rank: the rank of this process.
        world_size: the number of ranks.
        chunk: tokens of fairseq's chunks, whose last targets are not scored; None scores all.
    """

    n_pairs: int
    scoring: ScoringConfig
    reach: Reach
    rank: int
    world_size: int
    chunk: int | None = None

    @property
    def n_counted(self) -> int:
        """Return the number of targets that are scored."""
        return self.n_pairs - (self.n_pairs // self.chunk if self.chunk else 0)

    def columns(self) -> list[int]:
        """Return the places in a whole segment whose targets are scored."""
        every = range(self.scoring.tgt_len)
        return [i for i in every if self.chunk is None or (i + 1) % self.chunk]

    @property
    def n_segments(self) -> int:
        """Return the number of segments, ⌈P/T⌉."""
        return -(-self.n_pairs // self.scoring.tgt_len)

    @property
    def n_rows(self) -> int:
        """Return the number of rows over all ranks."""
        return self.scoring.batch_size * self.world_size

    @property
    def lead(self) -> int:
        """Return how many segments each row reads before its own; the same on all ranks."""
        last_start = (self.n_rows - 1) * self.n_segments // self.n_rows
        lengths = (self.scoring.mem_len, self.scoring.tgt_len)
        reach = self.reach(*lengths)
        if self.scoring.warm == "near":
            one_layer = layered(1)(*lengths)
            reach = one_layer if reach is None else min(reach, one_layer)
        return last_start if reach is None else min(reach, last_start)

    @property
    def n_forwards(self) -> int:
        """Return the number of forward passes, the same on all ranks: ZeRO-3 waits in each."""
        return self.lead + -(-self.n_segments // self.n_rows)

    @property
    def cost(self) -> int:
        """Return the cost of all passes, in tokens of a row."""
        return self.n_forwards * (self.scoring.tgt_len + FORWARD_TOKENS)

    def spans(self, index: int) -> Spans:
        """Return each row's span in pass `index`; empty before the text and after the row's run."""
        rows_B = self.rank * self.scoring.batch_size + np.arange(self.scoring.batch_size)
        firsts_B = rows_B * self.n_segments // self.n_rows
        lasts_B = (rows_B + 1) * self.n_segments // self.n_rows
        segments_B = firsts_B - self.lead + index
        begins_B = np.maximum(0, segments_B) * self.scoring.tgt_len
        lengths_B = np.minimum(self.scoring.tgt_len, self.n_pairs - begins_B)
        lengths_B[(segments_B < 0) | (segments_B >= lasts_B)] = 0
        return Spans(
            begins_B=begins_B,
            lengths_B=lengths_B,
            scored_B=segments_B >= firsts_B,
            lows_B=np.zeros_like(rows_B),
            highs_B=np.full_like(rows_B, self.n_pairs),
        )


def score(
    forward: Forward,
    split: Split,
    *,
    scoring: ScoringConfig,
    first_memory: Callable[[int, int], Memory],
    reach: Reach,
    cutoffs: tuple[int, ...],
    cut_documents: bool,
    world: World,
    should_stop: Callable[[], bool] = lambda: False,
    on_tokens: Callable[[int, Tensor], None] | None = None,
    on_share: Callable[[float], None] = lambda share: None,
    as_fairseq: bool = False,
    keeps_segments: bool = False,
) -> Score | None:
    """Score a split; None if it was stopped. Collective; the caller has switched dropout off.

    Args:
        forward: the model.
        split: the tokens.
        scoring: lengths, batch size and warming.
        first_memory: makes the first memory, given the number of rows and mem_len.
        reach: how far back the model looks.
        cutoffs: the cutoffs of the model's adaptive softmax.
        cut_documents: whether memory ends at a document's start.
        world: this process among its peers.
        should_stop: called now and then, on all ranks at the same pass; true ends the scoring.
        on_tokens: called for each run of neighbouring scored targets, with the position of the
            first in the split, and their nats on the host.
        on_share: called after each pass with its share of all passes.
        as_fairseq: whether to count as fairseq does: see the module's docstring.
        keeps_segments: whether segments are of tgt_len even where longer ones are faster.

    Raises:
        InputError: there is nothing to score, or the model lacks nats per token where needed.
    """
    chunk = min(scoring.tgt_len, split.n_tokens) if as_fairseq else None
    plan = _planned(split, scoring, reach=reach, world=world, chunk=chunk)
    plan = plan if keeps_segments else fastest(plan)
    began = time.monotonic()
    memory = first_memory(scoring.batch_size, scoring.mem_len)
    loss_sum = torch.zeros((), dtype=torch.float64, device=world.device)
    how: dict[str, Any] = {
        "cutoffs": cutoffs,
        "cut_documents": cut_documents,
        "device": world.device,
    }
    for index, (spans, output) in enumerate(_passes(forward, split, plan, memory, **how)):
        if index % 16 == 15 and should_stop():
            return None
        loss_sum += _counted(output, plan)
        if on_tokens is not None:
            _tell(on_tokens, spans, nats_of(output).cpu(), plan.chunk)
        world.progress.note("a pass of validation")
        on_share(1 / plan.n_forwards)
    (total,) = sum_floats([float(loss_sum)], world)
    return Score(
        loss=total / plan.n_counted,
        n_tokens=plan.n_counted,
        loss_sum=total,
        seconds=time.monotonic() - began,
    )


def _planned(
    split: Split, scoring: ScoringConfig, *, reach: Reach, world: World, chunk: int | None
) -> ScorePlan:
    plan = ScorePlan(
        n_pairs=split.n_tokens - 1,
        scoring=scoring,
        reach=reach,
        rank=world.rank,
        world_size=world.world_size,
        chunk=chunk,
    )
    if not plan.n_counted:
        raise InputError(f"split {split.name!r} has one token and nothing to predict: add text")
    return plan


#: With `same_length` segments are lengthened up to this many tokens: matrix products are at their
#: fastest, and attention's share of the time is still small.
LONGEST = 512


def fastest(plan: ScorePlan) -> ScorePlan:
    """Return the fastest plan that gives the same nats.

    With `same_length` segments may be any multiple of the length asked for, up to the memory's.
    Longer segments need fewer passes, but each row then reads more text before its own, and more
    padding at the end. Which length is fastest depends on the number of rows and the text.
    """
    scoring = plan.scoring
    most = min(scoring.mem_len, LONGEST) // scoring.tgt_len if scoring.same_length else 1
    plans = []
    for n in range(1, max(1, most) + 1):
        tgt_len = min(n * scoring.tgt_len, plan.n_pairs + 1)
        plans.append(replace(plan, scoring=scoring.model_copy(update={"tgt_len": tgt_len})))
    return min(plans, key=lambda plan: plan.cost)


def _passes(
    forward: Forward,
    split: Split,
    plan: ScorePlan,
    memory: Memory,
    *,
    cutoffs: tuple[int, ...],
    cut_documents: bool,
    device: torch.device,
) -> Iterator[tuple[Spans, Output]]:
    """Run every forward pass; yield its spans and its output."""
    scoring = plan.scoring
    for index in range(plan.n_forwards):
        spans = plan.spans(index)
        segment = make_segment(
            split, spans, tgt_len=scoring.tgt_len, cutoffs=cutoffs, cut_documents=cut_documents
        ).to(device)
        with torch.no_grad():
            output = forward(
                segment, memory, clamp_len=scoring.clamp_len, same_length=scoring.same_length
            )
        memory = output.memory
        yield spans, output


def _counted(output: Output, plan: ScorePlan) -> Tensor:
    if plan.chunk is None:
        return output.loss_sum
    return nats_of(output)[:, plan.columns()].double().sum()


def nats_of(output: Output) -> Tensor:
    """Return the nats of the segment's targets, 0 where a row has none."""
    if output.nll_BT is None:
        raise InputError(NO_NATS)
    return output.nll_BT


def _tell(
    on_tokens: Callable[[int, Tensor], None], spans: Spans, nll_BT: Tensor, chunk: int | None
) -> None:
    """Call `on_tokens` for each run of scored targets, which are all of a chunk but its last."""
    for row in np.flatnonzero(spans.scored_B):
        begin, length = int(spans.begins_B[row]), int(spans.lengths_B[row])
        for i in range(0, length, chunk or length or 1):
            end = length if chunk is None else min(length, i + chunk - 1)
            on_tokens(begin + i + 1, nll_BT[row, i:end])
