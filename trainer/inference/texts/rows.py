"""Dividing texts among rows, so that a model reads many texts at once and scores each token once.

A text's targets are cut into segments at multiples of tgt_len, counted from the text's beginning.
A row scores neighbouring segments of one text. Rows of like length are read together, in one round
that begins with empty memory. A long text is divided among several rows, as in
`trainer.inference.score`: each row first reads as far ahead of its own segments as the top layer
can look, so the nats are those of one long pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from trainer.config.recipe import ScoringConfig
from trainer.data.positions import Spans
from trainer.inference.score import FORWARD_TOKENS, LONGEST
from trainer.protocol import Reach


@dataclass(frozen=True)
class Row:
    """Neighbouring segments of one text.

    Attributes:
        low: the first (input, target) pair of the text.
        high: the pair after the text's last.
        first: the first segment that is scored, counted from the text's beginning.
        last: the segment after the last.
        lead: the number of segments that are read before the first.
    """

    low: int
    high: int
    first: int
    last: int
    lead: int

    @property
    def n_forwards(self) -> int:
        """Return the number of segments that are read."""
        return self.lead + self.last - self.first


@dataclass(frozen=True)
class Round:
    """Rows that are read side by side, each from empty memory; T is the length of segments."""

    rows: tuple[Row, ...]
    tgt_len: int

    @property
    def n_forwards(self) -> int:
        """Return the number of forward passes."""
        return max(row.n_forwards for row in self.rows)

    @property
    def width(self) -> int:
        """Return the length of the segments to make: T, or less if every row is one short one."""
        if self.n_forwards > 1:
            return self.tgt_len
        return min(self.tgt_len, max(row.high - row.low for row in self.rows))

    @property
    def cost(self) -> int:
        """Return the cost of all passes, in tokens of a row."""
        return self.n_forwards * (self.width + FORWARD_TOKENS)

    def spans(self, index: int) -> Spans:
        """Return each row's span in pass `index`; empty after the row's last segment."""
        lows_B = np.array([row.low for row in self.rows])
        highs_B = np.array([row.high for row in self.rows])
        firsts_B = np.array([row.first for row in self.rows])
        lasts_B = np.array([row.last for row in self.rows])
        segments_B = firsts_B - np.array([row.lead for row in self.rows]) + index
        is_read_B = segments_B < lasts_B
        begins_B = np.where(is_read_B, lows_B + segments_B * self.tgt_len, lows_B)
        lengths_B = np.where(is_read_B, np.minimum(self.tgt_len, highs_B - begins_B), 0)
        return Spans(
            begins_B=begins_B,
            lengths_B=lengths_B,
            scored_B=is_read_B & (segments_B >= firsts_B),
            lows_B=lows_B,
            highs_B=highs_B,
        )


def rounds(
    bounds: Sequence[int] | npt.NDArray[np.int64], *, scoring: ScoringConfig, reach: Reach | None
) -> list[Round]:
    """Return the rounds that score every token of every text but its first, the longest first.

    With `same_length` segments may be longer than asked for and give the same nats; the length
    that needs the least is taken, as in `trainer.inference.score.fastest`.

    Args:
        bounds: position of each text's first token among all tokens, and the number of tokens.
        scoring: lengths, and the number of rows.
        reach: how far back the model looks; None if no text is to be divided among rows.
    """
    bounds = [int(bound) for bound in bounds]
    most = min(scoring.mem_len, LONGEST) // scoring.tgt_len if scoring.same_length else 1
    plans = [
        _rounds(bounds, scoring, n * scoring.tgt_len, reach) for n in range(1, max(1, most) + 1)
    ]
    return min(plans, key=lambda plan: sum(one.cost for one in plan))


def _rounds(
    bounds: Sequence[int], scoring: ScoringConfig, tgt_len: int, reach: Reach | None
) -> list[Round]:
    n_rows = scoring.batch_size
    ranges = [(low, high - 1) for low, high in pairwise(bounds)]
    numbers = [-(-max(0, high - low) // tgt_len) for low, high in ranges]
    fair = -(-sum(numbers) // n_rows)
    looks_back = None if reach is None else reach(scoring.mem_len, tgt_len)
    rows: list[Row] = []
    for (low, high), n in zip(ranges, numbers, strict=True):
        n_parts = min(n, 1)
        if n > fair and looks_back is not None:
            n_parts = min(-(-n // fair), max(1, n // max(1, looks_back)))  # none reads ahead more
        for i in range(n_parts):
            first = i * n // n_parts
            rows.append(Row(low, high, first, (i + 1) * n // n_parts, min(looks_back or 0, first)))
    rows.sort(key=lambda row: (row.n_forwards, row.high - row.low), reverse=True)
    groups = (rows[i : i + n_rows] for i in range(0, len(rows), n_rows))
    return [Round(tuple(group), tgt_len) for group in groups]
