"""The memory that a rank of a training run needs, computed from sizes alone.

A step's peak is the largest of its moments: the end of the forward pass; the backward passes of
softmax, last layer and embedding; the update. Validation is another such moment. The copies of a
checkpoint being written are added to the peak. The libraries' own memory is not counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.budget import moments
from trainer.budget.activations import Widths
from trainer.budget.sizes import How, Weights
from trainer.config.experiment import ExperimentConfig
from trainer.host_cpu import RETURNED_BYTES

#: Bytes of the programs that oneDNN makes and keeps for a run's sizes, and the like.
_PROGRAMS = 24 << 20


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes that one rank needs, by purpose."""

    device: Mapping[str, int]
    """On the device that computes: in a GPU's memory, or in the host's."""
    host: Mapping[str, int]
    """In the host's memory, if the rank computes on a GPU."""
    moment: str
    """The moment at which the device needs most."""

    @property
    def device_bytes(self) -> int:
        """Return the sum over `device`."""
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        """Return the sum over `host`."""
        return sum(self.host.values())


def count(
    experiment: ExperimentConfig, weights: Weights, how: How, *, shares: Sequence[float]
) -> Needs:
    """Return what a rank needs; `shares`: each cluster's share of the targets, 1 for the head."""
    widths = Widths.of(how.precision)
    lasting = _lasting(experiment, weights, how, widths)
    by_moment = moments.Step(experiment, weights, how, widths, shares).moments()
    if experiment.valid.interval_steps and weights.is_ours:
        by_moment["validation"] = moments.validation(experiment, how, widths)
    grown = {
        moment: {name: part.grown(how.on_gpu) for name, part in parts.items()}
        for moment, parts in by_moment.items()
    }
    if not how.on_gpu and how.stage > 0:
        # The process keeps what it frees in the heap, so every moment has the heap's largest size.
        # At stage 0 gradients fit into the place that activations leave.
        heaps = {
            name: sum(part.grown(False) for part in parts.values() if part.in_heap)
            for name, parts in by_moment.items()
        }
        built, most = _built(weights, how, widths), max(heaps.values())
        # Building at stage 3 leaves the heap in pieces too small for a step's tensors.
        most = built + most if how.stage == 3 else max(built, most)
        for name, parts in grown.items():
            parts["freed, but kept in the heap"] = most - heaps[name]
    moment = max(grown, key=lambda name: sum(grown[name].values()))
    whole = lasting | grown[moment]
    saved = _saved(experiment, weights, how, widths)
    if how.captured:
        whole["passes that are not captured"] = _passes(grown)
    if how.on_gpu:
        host = {"checkpoint being written": saved} | _offloaded(weights, how)
        return Needs(device=whole, host=host, moment=moment)
    whole |= {"programs": _PROGRAMS, "checkpoint being written": saved}
    return Needs(device=whole, host={}, moment=moment)


def _passes(grown: Mapping[str, Mapping[str, int]]) -> int:
    """Return the bytes of both passes of a micro step at their peak, without gradients."""
    passes = (parts for moment, parts in grown.items() if moment.endswith("pass"))
    return max(
        (sum(n for name, n in parts.items() if name != "gradients") for parts in passes), default=0
    )


def _memory_bytes(experiment: ExperimentConfig, weights: Weights, how: How, widths: Widths) -> int:
    if not weights.is_ours:
        return how.micro * weights.state_bytes
    model, rows = experiment.model, how.micro * experiment.train.mem_len
    return model.n_layer * rows * model.d_model * widths.compute


def _saved(experiment: ExperimentConfig, weights: Weights, how: How, widths: Widths) -> int:
    """Return the bytes that a checkpoint copies: memories, and a rank's share of the fp32 state.

    At stage 3 what lies in the host's memory is written to its file as it is.
    """
    if not (experiment.checkpoint.interval_steps or experiment.valid.interval_steps):
        return 0  # only the last one, when the space of a step is free
    is_written = how.stage == 3 and (how.offload or not how.on_gpu)
    n_copied = 0 if is_written else weights.total // how.world_size
    return 12 * n_copied + how.slots * _memory_bytes(experiment, weights, how, widths)


def _lasting(
    experiment: ExperimentConfig, weights: Weights, how: How, widths: Widths
) -> dict[str, int]:
    """Return the bytes of tensors that last for the whole run."""
    total, share = weights.total, how.share
    parts = {"weights": total * widths.weight * (share if how.stage == 3 else 1)}
    if not (how.offload and how.on_gpu):
        parts["optimizer states"] = 8 * total * share
        parts["optimizer's own weights"] = 4 * total * share if how.stage > 0 else 0
    if how.stage == 3:
        parts["DeepSpeed's partitions"] = total * widths.weight * share
    if how.keeps_copies:
        parts["weights in 16 bits"] = 2 * weights.multiplied
    # A slot's next memory is made while its present one is read, those between the segments of a
    # step are kept for its backward pass, and a graph has one of its own.
    n_memories = how.slots + experiment.train.bptt_segments + how.captured
    parts["memory"] = n_memories * _memory_bytes(experiment, weights, how, widths)
    return {name: int(n) for name, n in parts.items()}


def _offloaded(weights: Weights, how: How) -> dict[str, int]:
    if not how.offload:
        return {}
    return {"offloaded optimizer": int((12 + 4 + 2) * weights.total * how.share)}


def _built(weights: Weights, how: How, widths: Widths) -> int:
    """Return the bytes in the heap of the model as first built, of which ZeRO keeps copies.

    At stage 3 each rank builds its parts alone, but DeepSpeed gathers each parameter once.
    """
    if how.stage == 3:
        return widths.weight * weights.total
    whole = 4 * weights.total
    if widths.weight == 4 and 4 * weights.largest >= RETURNED_BYTES:
        whole -= 4 * weights.largest
    return whole
