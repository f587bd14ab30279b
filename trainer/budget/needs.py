"""Counts the memory that a rank of a training run needs from sizes: nothing is built or measured.

A step's peak is the largest of its moments: the end of the forward pass, the softmax's backward
pass, the last layer's, the embedding's, the update. Validation is another. What a checkpoint copies
is there besides while steps go on. What the libraries themselves take is not counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.budget import moments
from trainer.budget.activations import Widths
from trainer.budget.sizes import How, Weights
from trainer.config.experiment import ExperimentConfig
from trainer.host_cpu import RETURNED_BYTES

#: Bytes of programs that oneDNN makes and keeps for the sizes of a run, and the like.
_PROGRAMS = 24 << 20


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes of one rank, by what they are for."""

    device: Mapping[str, int]
    """Where it computes: on a GPU, or in the host's memory."""
    host: Mapping[str, int]
    """In the host's memory, beside a GPU's."""
    moment: str
    """When the most is there."""

    @property
    def device_bytes(self) -> int:
        """All of the device."""
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        """All of the host, beside a GPU."""
        return sum(self.host.values())


def count(
    experiment: ExperimentConfig, weights: Weights, how: How, *, shares: Sequence[float]
) -> Needs:
    """Count what a rank needs; `shares` are of the targets in each cluster, 1 for the head."""
    widths = Widths.of(how.precision)
    lasting = _lasting(experiment, weights, how, widths)
    by_moment = moments.Step(experiment, weights, how, widths, shares).moments()
    if experiment.valid.interval_steps:
        by_moment["validation"] = moments.validation(experiment, how, widths)
    grown = {
        moment: {name: part.grown(how.on_gpu) for name, part in parts.items()}
        for moment, parts in by_moment.items()
    }
    if not how.on_gpu and how.stage > 0:
        # What is freed in the heap stays the process's own: its most is there at every moment. At
        # stage 0 gradients take the place that activations leave.
        heaps = {
            name: sum(part.grown(False) for part in parts.values() if part.in_heap)
            for name, parts in by_moment.items()
        }
        built, most = _built(weights, how, widths), max(heaps.values())
        # What stage 3 leaves is in too many pieces for a step to fill.
        most = built + most if how.stage == 3 else max(built, most)
        for name, parts in grown.items():
            parts["freed, but kept in the heap"] = most - heaps[name]
    moment = max(grown, key=lambda name: sum(grown[name].values()))
    whole = lasting | grown[moment]
    saved = _saved(experiment, weights, how, widths)
    if how.on_gpu:
        host = {"checkpoint being written": saved} | _offloaded(weights, how)
        return Needs(device=whole, host=host, moment=moment)
    whole |= {"programs": _PROGRAMS, "checkpoint being written": saved}
    return Needs(device=whole, host={}, moment=moment)


def _memory_bytes(experiment: ExperimentConfig, how: How, widths: Widths) -> int:
    model, rows = experiment.model, how.micro * experiment.train.mem_len
    return model.n_layer * rows * model.d_model * widths.compute


def _saved(experiment: ExperimentConfig, weights: Weights, how: How, widths: Widths) -> int:
    """Return the bytes that a checkpoint copies: a rank's parameters and moments, in fp32."""
    if not (experiment.checkpoint.interval_steps or experiment.valid.interval_steps):
        return 0  # the last one alone, when a step's space is free
    n_own = max(weights.largest, weights.total // how.world_size)
    if how.stage > 0 and not how.on_gpu and 4 * weights.largest < RETURNED_BYTES:
        n_own += weights.largest  # gathered, before it is copied, and kept in the heap
    return 12 * n_own + how.slots * _memory_bytes(experiment, how, widths)


def _lasting(
    experiment: ExperimentConfig, weights: Weights, how: How, widths: Widths
) -> dict[str, int]:
    """Return the bytes of tensors that last from start to end."""
    total, share = weights.total, how.share
    parts = {"weights": total * widths.weight * (share if how.stage == 3 else 1)}
    if not (how.offload and how.on_gpu):
        parts["optimizer states"] = 8 * total * share
        parts["optimizer's own weights"] = 4 * total * share if how.stage > 0 else 0
    if how.stage == 3:
        parts["DeepSpeed's partitions"] = total * widths.weight * share
    # A slot's next memory is made while the one before is read.
    parts["memory"] = (how.slots + 1) * _memory_bytes(experiment, how, widths)
    return {name: int(n) for name, n in parts.items()}


def _offloaded(weights: Weights, how: How) -> dict[str, int]:
    if not how.offload:
        return {}
    return {"offloaded optimizer": int((12 + 4 + 2) * weights.total * how.share)}


def _built(weights: Weights, how: How, widths: Widths) -> int:
    """Return the bytes left in the heap of the model as it was built, which ZeRO has copied."""
    large = weights.largest
    whole = 4 * weights.total
    if widths.weight == 4 and 4 * large >= RETURNED_BYTES:
        whole -= 4 * large
    if how.stage == 3:
        part = widths.weight * how.share
        n_small = weights.total - (large if large * part >= RETURNED_BYTES else 0)
        whole += int(n_small * part)
    return whole
