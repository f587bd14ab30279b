"""The place where streams read: a pure function of the step's position in the text, without torch.

A split of N tokens has P = N-1 (input, target) pairs, in the text's order or in one that an epoch
draws for its documents. Stream s of S covers pairs ⌊sP/S⌋ up to ⌊(s+1)P/S⌋ of that order. B streams
of a micro step.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.config.lengths import Lengths, Stage
from trainer.data.pieces import PieceOrder, Pieces, PieceSpans

Ints = npt.NDArray[np.int64]


class Spans(NamedTuple):
    """A run of (input, target) pairs of a text for each row.

    A span lies in a range of pairs; at the range's end it goes on from the range's start.
    """

    begins_B: Ints
    """First pair of each span."""
    lengths_B: Ints
    """Pairs of each span; a row may have none."""
    scored_B: npt.NDArray[np.bool_]
    """True if the span's targets count; those of text that only warms a memory do not."""
    lows_B: Ints
    """First pair of each range."""
    highs_B: Ints
    """The pair after the last of each range."""

    def pairs(self, tgt_len: int) -> Ints:
        """Return the pairs of each span, `[B, tgt_len]`; those after a span's end mean nothing."""
        pairs_BT = self.begins_B[:, None] + np.arange(tgt_len)
        wraps_B = self.begins_B + self.lengths_B > self.highs_B
        if wraps_B.any():
            low_W1, high_W1 = self.lows_B[wraps_B, None], self.highs_B[wraps_B, None]
            pairs_BT[wraps_B] = low_W1 + (pairs_BT[wraps_B] - low_W1) % (high_W1 - low_W1)
        return pairs_BT

    def seams(self, pairs_BT: Ints) -> npt.NDArray[np.bool_]:
        """Return where pairs of the spans are the first ones of their ranges."""
        is_first_BT: npt.NDArray[np.bool_] = pairs_BT == self.lows_B[:, None]
        return is_first_BT


def n_segments(n_pairs: int, *, n_streams: int, tgt_len: int) -> int:
    """Return ⌈⌈P/S⌉/T⌉, the number of segments that cover the longest of S streams."""
    longest = -(-n_pairs // n_streams)
    return -(-longest // tgt_len)


class Place(NamedTuple):
    """Where a step begins to read, the same in every stream."""

    epoch: int
    """Counted from 0."""
    done: int
    """Tokens that the epoch's steps before it have read of a stream."""
    lengths: Lengths
    """Those of the step."""


@dataclass(frozen=True, kw_only=True)
class Positions:
    """The positions of all streams of a split.

    Args:
        n_pairs: P.
        n_streams: S, at most P.
        stages: the lengths of steps, which may change within an epoch; see
            `trainer.config.lengths`. An epoch's last step has the segments that are left.
        epoch_order: `roll` rotates the pairs by an offset drawn from (seed, epoch), so that
            streams hold other text in every epoch; `roll_streams` rotates each stream in itself,
            by an offset drawn from (seed, epoch, stream), as NVIDIA's --roll does; `documents` puts
            documents, or pieces of them, in an order drawn from (seed, epoch).
        seed: the seed of the offsets and orders.
        document_starts: where documents start, for `documents`; see `Pieces`.
        piece_tokens: the most pairs of a piece of a document, for `documents`; see `Pieces`.
    """

    n_pairs: int
    n_streams: int
    stages: tuple[Stage, ...]
    epoch_order: str
    seed: int
    document_starts: Ints | None = field(default=None, repr=False, compare=False)
    piece_tokens: int | None = None
    _order: PieceOrder | None = field(init=False, repr=False, compare=False)
    _borders: Ints = field(init=False, repr=False, compare=False)
    _begun: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find where streams and stages begin."""
        object.__setattr__(self, "_order", self._order_of_pieces())
        # ⌊sP/S⌋ is computed in parts: the products stay below 2^63 for fewer than 2^31 streams.
        whole, rest = divmod(self.n_pairs, self.n_streams)
        numbers = np.arange(self.n_streams + 1, dtype=np.int64)
        borders = numbers * whole + numbers * rest // self.n_streams
        object.__setattr__(self, "_borders", borders)
        begun = [(0, 0)]
        for stage, after in pairwise(self.stages):
            n_steps = after.first_step - stage.first_step
            begun.append(self._after(n_steps, *begun[-1], stage.lengths))
        object.__setattr__(self, "_begun", tuple(begun))

    def _order_of_pieces(self) -> PieceOrder | None:
        if self.epoch_order != "documents":
            return None
        assert self.document_starts is not None
        pieces = Pieces(
            n_pairs=self.n_pairs,
            document_starts=self.document_starts,
            piece_tokens=self.piece_tokens,
        )
        return PieceOrder(pieces=pieces, seed=self.seed)

    @property
    def longest(self) -> int:
        """Return ⌈P/S⌉, the tokens of the longest stream."""
        return -(-self.n_pairs // self.n_streams)

    @property
    def steps_per_epoch(self) -> int:
        """Return the steps that cover the longest stream, with the lengths of the last stage."""
        return -(-self.longest // self._width(self.stages[-1].lengths))

    def place(self, data_step: int) -> Place:
        """Return where a step begins."""
        index = bisect_right(self.stages, data_step, key=lambda stage: stage.first_step) - 1
        stage, begun = self.stages[index], self._begun[index]
        epoch, done = self._after(data_step - stage.first_step, *begun, stage.lengths)
        return Place(epoch, done, stage.lengths)

    def _after(self, n_steps: int, epoch: int, done: int, lengths: Lengths) -> tuple[int, int]:
        """Return epoch and tokens done so many steps of such lengths after a place."""
        width = self._width(lengths)
        n_first = -(-(self.longest - done) // width)
        if n_steps < n_first:
            return epoch, done + n_steps * width
        epochs, n_more = divmod(n_steps - n_first, -(-self.longest // width))
        return epoch + 1 + epochs, n_more * width

    def _width(self, lengths: Lengths) -> int:
        """Return the most tokens that a step reads of a stream."""
        n_segments = -(-self.longest // lengths.tgt_len)
        return lengths.tgt_len * min(lengths.bptt_segments, n_segments)

    def width(self, data_step: int) -> int:
        """Return the tokens that the step's segments have places for."""
        return self.n_segments(data_step) * self.place(data_step).lengths.tgt_len

    def epochs(self, data_step: int) -> float:
        """Return the epochs read before a step, by the tokens of the longest stream."""
        epoch, done, _ = self.place(data_step)
        return epoch + done / self.longest

    def n_segments(self, data_step: int) -> int:
        """Return the number of segments of a step."""
        _, done, lengths = self.place(data_step)
        return min(lengths.bptt_segments, -(-(self.longest - done) // lengths.tgt_len))

    def n_tokens(self, data_step: int) -> int:
        """Return the number of targets of all streams in a step."""
        _, done, lengths = self.place(data_step)
        left = np.diff(self._borders) - done
        return int(np.minimum(left, self._width(lengths)).sum())

    def spans(self, streams_B: Ints, data_step: int, part: int | None = None) -> Spans | PieceSpans:
        """Return what these streams read in a step, or in one of its segments, from 0 on."""
        epoch, done, lengths = self.place(data_step)
        lows_B, highs_B = self._borders[streams_B], self._borders[streams_B + 1]
        done += (part or 0) * lengths.tgt_len
        width = self._width(lengths) if part is None else lengths.tgt_len
        lengths_B = np.minimum(width, highs_B - lows_B - done)
        begins_B = lows_B + done
        if self._order is not None:
            return self._order.spans(epoch, begins_B, lengths_B, width=width)
        if self.epoch_order == "roll_streams":
            sizes_B = highs_B - lows_B
            offsets_B = _offsets(self.seed, epoch, int(streams_B[0]), tuple(sizes_B.tolist()))
            begins_B = lows_B + (done + offsets_B) % sizes_B
        else:
            lows_B, highs_B = np.zeros_like(lows_B), np.full_like(highs_B, self.n_pairs)
        if self.epoch_order == "roll":
            begins_B = (begins_B + _offset((self.seed, epoch), self.n_pairs)) % self.n_pairs
        is_scored_B = np.ones(len(streams_B), bool)
        return Spans(begins_B, lengths_B, is_scored_B, lows_B, highs_B)


@lru_cache(maxsize=32)  # an epoch's slots: each offset costs a generator
def _offsets(seed: int, epoch: int, first: int, sizes: tuple[int, ...]) -> Ints:
    """Return the offset of each of the streams from `first` on."""
    offsets = [_offset((seed, epoch, first + i), size) for i, size in enumerate(sizes)]
    return np.array(offsets, np.int64)


def _offset(seeds: tuple[int, ...], size: int) -> int:
    return int(np.random.default_rng(seeds).integers(size))
