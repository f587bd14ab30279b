"""Streams: contiguous rows of a split, read segment by segment, rank by rank.

A split of N tokens has P = N-1 (input, target) pairs. Stream s of S covers pairs ⌊sP/S⌋ up to
⌊(s+1)P/S⌋ of the epoch's order, so every token but the corpus's first is predicted exactly once per
epoch. In the text's own order a stream's last target is its neighbour's first input. A rank's
position in the text is a pure function of (data_step, slot, rank).
"""

from dataclasses import dataclass, field

import numpy as np

from trainer.config.lengths import Lengths, Stage
from trainer.data.corpus import Split
from trainer.data.positions import Positions
from trainer.data.rows import make_segment
from trainer.errors import InputError
from trainer.protocol import Segment


@dataclass(frozen=True, kw_only=True)
class Streams:
    """The streams that one rank reads of one split.

    Args:
        split: the tokens.
        train_batch_size: S, streams over all ranks and slots.
        stages: the lengths of steps, T tokens of a segment among them; see `Positions`.
        slots: micro steps of a step; slot i always reads the same streams.
        rank: the rank of this process.
        world_size: the number of ranks.
        epoch_order: the order in which each epoch reads the text; see `Positions`.
        piece_tokens: the most tokens of a piece of a document; see `Positions`.
        memory_reset: where memory is cut; see `DataConfig`.
        seed: the seed of the offsets and orders.
        cutoffs: the cutoffs of the model's adaptive softmax.
    """

    split: Split
    train_batch_size: int
    stages: tuple[Stage, ...]
    slots: int
    rank: int
    world_size: int
    epoch_order: str = "same"
    piece_tokens: int | None = None
    memory_reset: str = "epoch"
    seed: int = 0
    cutoffs: tuple[int, ...] = ()
    _positions: Positions = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a split with fewer pairs than streams."""
        if self.n_pairs < self.train_batch_size:
            raise InputError(
                f"split {self.split.name!r} has {self.split.n_tokens:,} tokens, too few for "
                f"{self.train_batch_size:,} streams: lower --train.train-batch-size or add text"
            )
        positions = Positions(
            n_pairs=self.n_pairs,
            n_streams=self.train_batch_size,
            stages=self.stages,
            epoch_order=self.epoch_order,
            seed=self.seed,
            document_starts=self.split.document_starts,
            piece_tokens=self.piece_tokens,
        )
        object.__setattr__(self, "_positions", positions)

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
        """Return the steps that cover the longest stream, with the lengths of the last stage."""
        return self._positions.steps_per_epoch

    def lengths(self, data_step: int) -> Lengths:
        """Return the lengths of a step."""
        return self._positions.place(data_step).lengths

    def stream_ids(self, slot: int) -> np.ndarray:
        """Return the global ids of the streams that this rank reads in `slot`, `[B]`."""
        first = slot * self.world_size * self.micro + self.rank * self.micro
        return np.arange(first, first + self.micro)

    def epoch(self, data_step: int) -> int:
        """Return the epoch of `data_step`, counted from 0."""
        return self._positions.place(data_step).epoch

    def epochs(self, data_step: int) -> float:
        """Return the epochs that were read before `data_step`."""
        return self._positions.epochs(data_step)

    def forgets_memory(self, data_step: int) -> bool:
        """Return whether all memory is forgotten before this step."""
        begins_epoch = self._positions.place(data_step).done == 0
        return self.forgets_always or (self.memory_reset != "never" and begins_epoch)

    @property
    def forgets_always(self) -> bool:
        """Return whether every segment is read with empty memory."""
        return self.memory_reset == "segment"

    def n_tokens(self, data_step: int) -> int:
        """Return the step's number of targets over all ranks and slots, without a collective."""
        return self._positions.n_tokens(data_step)

    def n_segments(self, data_step: int) -> int:
        """Return the number of segments of each of the step's micro steps, on all ranks."""
        return self._positions.n_segments(data_step)

    def segment(self, data_step: int, slot: int, part: int = 0) -> Segment:
        """Return a segment, from 0 on, of this rank's micro step `slot` of `data_step`.

        It is on the CPU.
        """
        return make_segment(
            self.split,
            self._positions.spans(self.stream_ids(slot), data_step, part),
            tgt_len=self.lengths(data_step).tgt_len,
            cutoffs=self.cutoffs,
            cut_documents=self.memory_reset == "document",
            cut_seam=self.epoch_order != "same" and self.memory_reset != "never",
        )

    def segments(self, data_step: int, slot: int) -> tuple[Segment, ...]:
        """Return this rank's segments of micro step `slot` of `data_step`, one after the other."""
        parts = range(self.n_segments(data_step))
        return tuple(self.segment(data_step, slot, part) for part in parts)

    def begins(self, data_step: int, slot: int) -> np.ndarray:
        """Return where in the split this rank's streams of `slot` read in `data_step`, `[B]`."""
        return self._positions.spans(self.stream_ids(slot), data_step).begins_B
