"""The place where streams read: a pure function of the step's position in the text, without torch.

A split of N tokens has P = N-1 (input, target) pairs. Stream s of S covers pairs ⌊sP/S⌋ up to
⌊(s+1)P/S⌋. B streams of a micro step.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

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


def n_segments(n_pairs: int, *, n_streams: int, tgt_len: int) -> int:
    """Return ⌈⌈P/S⌉/T⌉, the number of segments that cover the longest of S streams."""
    longest = -(-n_pairs // n_streams)
    return -(-longest // tgt_len)


def steps_per_epoch(n_pairs: int, *, n_streams: int, tgt_len: int, bptt_segments: int) -> int:
    """Return the number of steps of `bptt_segments` segments; the last may have fewer."""
    return -(-n_segments(n_pairs, n_streams=n_streams, tgt_len=tgt_len) // bptt_segments)


@dataclass(frozen=True, kw_only=True)
class Positions:
    """The positions of all streams of a split.

    Args:
        n_pairs: P.
        n_streams: S, at most P.
        tgt_len: T, tokens of a segment.
        bptt_segments: segments of a step; an epoch's last step has those that are left.
        epoch_order: `roll` rotates the pairs by an offset drawn from (seed, epoch), so that
            streams hold other text in every epoch; `roll_streams` rotates each stream in itself,
            by an offset drawn from (seed, epoch, stream), as NVIDIA's --roll does.
        seed: the seed of the offsets.
    """

    n_pairs: int
    n_streams: int
    tgt_len: int
    bptt_segments: int
    epoch_order: str
    seed: int
    _borders: Ints = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find where streams begin."""
        # ⌊sP/S⌋ is computed in parts: the products stay below 2^63 for fewer than 2^31 streams.
        whole, rest = divmod(self.n_pairs, self.n_streams)
        numbers = np.arange(self.n_streams + 1, dtype=np.int64)
        borders = numbers * whole + numbers * rest // self.n_streams
        object.__setattr__(self, "_borders", borders)

    @property
    def segments_per_epoch(self) -> int:
        """Return the number of segments that cover the longest stream."""
        return n_segments(self.n_pairs, n_streams=self.n_streams, tgt_len=self.tgt_len)

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of steps that cover the longest stream."""
        return -(-self.segments_per_epoch // self.bptt_segments)

    @property
    def width(self) -> int:
        """Return the most tokens that a step reads of a stream."""
        return self.tgt_len * min(self.bptt_segments, self.segments_per_epoch)

    def n_segments(self, data_step: int) -> int:
        """Return the number of segments of a step."""
        done = data_step % self.steps_per_epoch * self.bptt_segments
        return min(self.bptt_segments, self.segments_per_epoch - done)

    def n_tokens(self, data_step: int) -> int:
        """Return the number of targets of all streams in a step."""
        begin = (data_step % self.steps_per_epoch) * self.width
        left = np.diff(self._borders) - begin
        return int(np.minimum(left, self.width).sum())

    def spans(self, streams_B: Ints, data_step: int, part: int | None = None) -> Spans:
        """Return what these streams read in a step, or in one of its segments, from 0 on."""
        epoch, index = divmod(data_step, self.steps_per_epoch)
        lows_B, highs_B = self._borders[streams_B], self._borders[streams_B + 1]
        done = index * self.width + (part or 0) * self.tgt_len
        width = self.width if part is None else self.tgt_len
        lengths_B = np.minimum(width, highs_B - lows_B - done)
        begins_B = lows_B + done
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
