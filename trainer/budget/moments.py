"""The tensors at each moment of a step that may be its peak of memory.

All counts are bytes of one rank, computed from sizes: see `trainer.budget.needs`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from trainer.budget import activations
from trainer.budget.activations import PassSize, Widths
from trainer.budget.sizes import How, Weights
from trainer.config.experiment import ExperimentConfig
from trainer.config.precision import is_autocast
from trainer.host_cpu import RETURNED_BYTES
from trainer.model.matrices import BATCH

#: The share of memory that an allocator cannot use again at once: of a GPU's blocks; of a host's
#: large blocks, which go back to the system; of a host's small blocks in the heap (measured with
#: glibc 2.36, where an aligned block never fits into the hole that an equal block has left).
_ON_GPU, _LARGE, _SMALL = 0.05, 0.04, 0.33

#: Bytes that Muon takes for an element of matrices that it makes orthogonal: in fp32 a buffer and
#: three of a product's; in 16 bits a buffer, and a quotient in fp32 that is rounded.
_IN_FP32, _IN_16_BITS = 16, 10


class Holding(NamedTuple):
    """Bytes that are taken and freed again, and the size of the blocks asked for."""

    n_bytes: float
    block: float
    keeps_place: bool = False
    """True if the bytes always return to the same place, or are never freed."""

    @property
    def in_heap(self) -> bool:
        """Return whether the bytes are taken from the heap and freed again."""
        return self.block < RETURNED_BYTES and not self.keeps_place

    def grown(self, on_gpu: bool) -> int:
        """Return the bytes, with the share that the allocator cannot use again."""
        if on_gpu:
            return int(self.n_bytes * (1 + _ON_GPU))
        fits = self.keeps_place or self.block >= RETURNED_BYTES
        return int(self.n_bytes * (1 + (_LARGE if fits else _SMALL)))


Holdings = dict[str, Holding]


class Step:
    """The bytes at each moment of a step that may be its peak, without tensors that last."""

    def __init__(
        self,
        experiment: ExperimentConfig,
        weights: Weights,
        how: How,
        widths: Widths,
        shares: Sequence[float],
    ) -> None:
        self._model, self._type = experiment.model, experiment.optim.type
        self._weights, self._how, self._widths = weights, how, widths
        train = experiment.train
        self._size = PassSize(n_rows=how.micro, tgt_len=train.tgt_len, mem_len=train.mem_len)
        self._n_segments = train.bptt_segments
        self._shares = shares

    def moments(self) -> dict[str, Holdings]:
        """Return the holdings at each moment, by the moment's name."""
        model, how, size, widths = self._model, self._how, self._size, self._widths
        if not self._weights.is_ours:
            return {"the update": self._gradients() | self._update()}
        one = activations.layer(model, size, widths, how.backend)
        head = activations.softmax(
            size,
            widths,
            how.backend,
            tables=self._weights.tables,
            shares=self._shares,
            tied=model.tie_embedding,
        )
        kept = self._kept(one)
        scores = size.scores(model) * widths.compute
        n, d = size.n_positions, model.d_model
        # Of a step's segments each keeps its own until the one backward pass.
        k = self._n_segments
        inputs = model.n_layer * k * n * d * widths.residual
        inputs = 0 if model.activation_checkpointing else inputs
        before = self._gradients() if how.slots > 1 else {}
        made = before or self._tables(k * head.made)
        dense = before or self._tables(k * head.made + head.dense)
        rest = self._gradients() | self._casts()
        errors = _softmax(k * head.kept)
        reduction = {"the reduction": self._reduction()} if how.keeps_gradients else {}
        return reduction | {
            "the layers' forward pass": kept | made | _working(one.forward + inputs, scores),
            "the softmax's forward pass": kept
            | made
            | errors
            | _working(head.forward, head.forward),
            "the softmax's backward pass": kept | dense | errors | _working(head.backward, 0),
            "the last layer's backward pass": kept | dense | _working(one.backward, scores),
            "the embedding's backward pass": rest | _working(n * d * 8, 0),
            "the update": (self._handed_over() if how.stage else rest) | self._update(),
        }

    def _kept(self, one: activations.LayerBytes) -> Holdings:
        n_layer, size, model = self._model.n_layer, self._size, self._model
        scores = size.scores(model) * self._widths.compute
        inner = size.n_positions * model.d_inner * self._widths.compute
        n = n_layer * self._n_segments
        return {
            "attention": Holding(n * one.attention, scores),
            "layers": Holding(n * one.others, inner),
        } | self._casts()

    def _casts(self) -> Holdings:
        if not is_autocast(self._how.precision) or self._how.keeps_copies:
            return {}
        n_bytes = self._model.n_layer * self._weights.layer * 2
        return {"weights in 16 bits": Holding(n_bytes, 0, keeps_place=True)}

    def _tables(self, n_bytes: int) -> Holdings:
        return {"gradients": Holding(n_bytes, 0, keeps_place=True)}

    def _gradients(self) -> Holdings:
        """Return the bytes of all gradients of a step."""
        weights, how, width = self._weights, self._how, self._widths.weight
        whole = weights.total * width
        if how.stage == 0 or how.keeps_gradients:
            return {"gradients": Holding(whole, 0, keeps_place=True)}
        # DeepSpeed's bucket of gradients, and one gradient on its way to the bucket. At stage 3:
        # twice the gradients being sent, or a gathered weight with its gradient.
        buckets = self._bucket()
        if how.stage == 3:
            n_bytes = 2 * max(min(how.bucket, weights.total), weights.largest) * width
            return {"gradients": Holding(n_bytes, n_bytes / 2), "DeepSpeed's buckets": buckets}
        own, one = whole * how.share, weights.largest * width
        return {
            "gradients": Holding(_flat(own, how) + one, 0, keeps_place=True),
            "DeepSpeed's buckets": buckets,
        }

    def _bucket(self) -> Holding:
        """Return the bytes of DeepSpeed's bucket, of which a host only takes what is filled."""
        how = self._how
        n_filled = how.bucket if how.on_gpu else min(how.bucket, self._weights.total)
        n_bytes = n_filled * self._widths.weight
        return Holding(n_bytes, n_bytes)

    def _reduction(self) -> Holdings:
        """Return the bytes of whole gradients, of the bucket that sends them, and of what comes."""
        whole = self._weights.total * self._widths.weight
        n_bytes = whole + _flat(whole * self._how.share, self._how)
        return {
            "gradients": Holding(n_bytes, 0, keeps_place=True),
            "DeepSpeed's buckets": self._bucket(),
        }

    def _handed_over(self) -> Holdings:
        """Return the bytes of gradients when the optimizer gets them."""
        weights, how, width = self._weights, self._how, self._widths.weight
        if how.stage == 3:
            return {"DeepSpeed's buckets": self._bucket()}
        n_bytes = _flat(weights.total * width * how.share, how)
        if how.captured:  # a graph's whole gradients stay where they are
            n_bytes += weights.total * width
        return {"gradients": Holding(n_bytes, 0, keeps_place=True)}

    def _update(self) -> Holdings:
        """Return the working space of an update, with the fp32 gradient that it needs."""
        weights, how, width = self._weights, self._how, self._widths.weight
        n_bytes = 0.0
        if how.stage > 0:
            n_bytes = weights.total * how.share * (width if width == 4 else width + 4)
        if self._type == "Lamb":
            n_bytes += 8 * weights.total * how.share
        elif self._type == "Muon":
            n_bytes += self._matrices() * (_IN_FP32 if self._widths.compute == 4 else _IN_16_BITS)
        elif not how.fused_adam and not how.offload:
            n_bytes += 4 * (weights.total * how.share if how.on_gpu else weights.largest)
        return _working(max(0, n_bytes), 4 * weights.total * how.share)

    def _matrices(self) -> int:
        """Return the most elements of matrices that Muon has whole at a time."""
        weights = self._weights
        if not weights.is_ours:
            return min(weights.total, max(BATCH, weights.largest))
        return min(self._model.n_layer * weights.layer, max(BATCH, weights.layer))


def _flat(n_bytes: float, how: How) -> float:
    """Return the bytes of a flat gradient.

    It is made anew in every step; with several ranks the new one lies elsewhere in the heap.
    """
    moves = how.world_size > 1 and n_bytes < RETURNED_BYTES and not how.on_gpu
    return 2 * n_bytes if moves else n_bytes


def _working(n_bytes: float, block: float) -> Holdings:
    return {"working space": Holding(n_bytes, block)}


def _softmax(n_bytes: float) -> Holdings:
    return {"softmax": Holding(n_bytes, n_bytes)}


def validation(experiment: ExperimentConfig, how: How, widths: Widths) -> Holdings:
    """Return the bytes that a validation works with, and those of its memory."""
    model, valid = experiment.model, experiment.valid
    size = PassSize(n_rows=valid.batch_size, tgt_len=valid.tgt_len, mem_len=valid.mem_len)
    working = activations.validation(model, size, widths, how.backend)
    memory = activations.reading_memory(model, size, widths)
    return {"keys and values of validation": Holding(memory, memory / 2)} | _working(
        working, working / 4
    )
