"""Streams: contiguous rows of a split, read segment by segment, rank by rank.

A split of N tokens has P = N-1 (input, target) pairs. Stream s of S covers pairs ⌊sP/S⌋ up to
⌊(s+1)P/S⌋. A stream's last target is its neighbour's first input, so every token but the corpus's
first is predicted exactly once per epoch. A rank's position in the text is a pure function of
(data_step, slot, rank).
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from trainer.data.corpus import Split
from trainer.data.rows import Spans, make_segment
from trainer.errors import InputError
from trainer.protocol import Segment


def n_segments(n_pairs: int, *, n_streams: int, tgt_len: int) -> int:
    """Return ⌈⌈P/S⌉/T⌉, the number of segments that cover the longest of S streams."""
    longest = -(-n_pairs // n_streams)
    return -(-longest // tgt_len)


@dataclass(frozen=True, kw_only=True)
class Streams:
    """The streams that one rank reads of one split.

    Args:
        split: the tokens.
        train_batch_size: S, streams over all ranks and slots.
        tgt_len: T, tokens of a segment.
        slots: micro steps of a step; slot i always reads the same streams.
        rank: the rank of this process.
        world_size: the number of ranks.
        epoch_order: `roll` rotates the pairs by an offset drawn from (seed, epoch), so that
            streams hold other text in every epoch; `roll_streams` rotates each stream in itself,
            by an offset drawn from (seed, epoch, stream), as NVIDIA's --roll does.
        memory_reset: where memory is cut; see `DataConfig`.
        seed: the seed of the offsets.
        cutoffs: the cutoffs of the model's adaptive softmax.
    """

    split: Split
    train_batch_size: int
    tgt_len: int
    slots: int
    rank: int
    world_size: int
    epoch_order: str = "same"
    memory_reset: str = "epoch"
    seed: int = 0
    cutoffs: tuple[int, ...] = ()
    _borders: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a split with fewer pairs than streams."""
        if self.n_pairs < self.train_batch_size:
            raise InputError(
                f"split {self.split.name!r} has {self.split.n_tokens:,} tokens, too few for "
                f"{self.train_batch_size:,} streams: lower --train.train-batch-size or add text"
            )
        # ⌊sP/S⌋ is computed in parts: the products stay below 2^63 for fewer than 2^31 streams.
        whole, rest = divmod(self.n_pairs, self.train_batch_size)
        numbers = np.arange(self.train_batch_size + 1, dtype=np.int64)
        borders = numbers * whole + numbers * rest // self.train_batch_size
        object.__setattr__(self, "_borders", borders)

    @property
    def n_pairs(self) -> int:
        """Return P, the number of pairs of input and target."""
        return self.split.n_tokens - 1

    @property
    def micro(self) -> int:
        """Return B, the number of streams of one micro step on one rank."""
        return self.train_batch_size // (self.slots * self.world_size)

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of segments that cover the longest stream."""
        return n_segments(self.n_pairs, n_streams=self.train_batch_size, tgt_len=self.tgt_len)

    def stream_ids(self, slot: int) -> np.ndarray:
        """Return the global ids of the streams that this rank reads in `slot`, `[B]`."""
        first = slot * self.world_size * self.micro + self.rank * self.micro
        return np.arange(first, first + self.micro)

    def epoch(self, data_step: int) -> int:
        """Return the epoch of `data_step`, counted from 0."""
        return data_step // self.steps_per_epoch

    def forgets_memory(self, data_step: int) -> bool:
        """Return whether all memory is forgotten before this step."""
        return self.memory_reset != "never" and data_step % self.steps_per_epoch == 0

    def n_tokens(self, data_step: int) -> int:
        """Return the step's number of targets over all ranks and slots, without a collective."""
        begin = (data_step % self.steps_per_epoch) * self.tgt_len
        left = np.diff(self._borders) - begin
        return int(np.minimum(left, self.tgt_len).sum())

    def segment(self, data_step: int, slot: int) -> Segment:
        """Return this rank's segment of micro step `slot` of `data_step`, on the CPU."""
        epoch, index = divmod(data_step, self.steps_per_epoch)
        return make_segment(
            self.split,
            self._spans(self.stream_ids(slot), epoch, index),
            tgt_len=self.tgt_len,
            cutoffs=self.cutoffs,
            cut_documents=self.memory_reset == "document",
            cut_seam=self.epoch_order != "same" and self.memory_reset != "never",
        )

    def _spans(self, streams_B: np.ndarray, epoch: int, index: int) -> Spans:
        """Return the spans of the streams' segment `index`, in this epoch's order."""
        lows_B, highs_B = self._borders[streams_B], self._borders[streams_B + 1]
        done = index * self.tgt_len
        lengths_B = np.minimum(self.tgt_len, highs_B - lows_B - done)
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
def _offsets(seed: int, epoch: int, first: int, sizes: tuple[int, ...]) -> np.ndarray:
    """Return the offset of each of the streams from `first` on."""
    offsets = [_offset((seed, epoch, first + i), size) for i, size in enumerate(sizes)]
    return np.array(offsets, np.int64)


def _offset(seeds: tuple[int, ...], size: int) -> int:
    return int(np.random.default_rng(seeds).integers(size))
