"""A plan of a training without a device or a corpus: bytes held and sent, and an estimate of time.

Parameters, bytes and tokens are arithmetic. Activations are the estimate that a run's own check of
memory makes. The time of a step is a plain estimate: the products of matrices at one rate, those of
Muon's update among them, then all messages at another, and nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from trainer.budget.check import GIB, Budget
from trainer.budget.flops import orthogonal
from trainer.budget.held import Held, Sent, brought_together, held, sent
from trainer.budget.sizes import Words
from trainer.config.deepspeed.file import ResolvedDs
from trainer.config.precision import Precision
from trainer.config.recipe import ExperimentConfig
from trainer.data.positions import Positions
from trainer.distributed import World
from trainer.model.build import build_model
from trainer.model.choice import BackendName
from trainer.model.matrices import Matrices

#: What of `Needs.device` a row tells under names of its own; all else are activations.
_NOT_ACTIVATIONS = {
    "weights",
    "weights in 16 bits",
    "gradients",
    "DeepSpeed's buckets",
    "DeepSpeed's partitions",
    "optimizer states",
    "optimizer's own weights",
    "memory",
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The devices of a plan, one per rank."""

    n_devices: int
    on_gpu: bool
    memory_gib: float | None
    """The memory of one device; None if it is not to be held against anything."""
    flops_per_s: float
    """Floating-point operations of products that a device computes in a second."""
    bytes_per_s: float
    """Bytes that a rank sends in a second."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The plan of one DeepSpeed file; bytes are of one rank."""

    file: str
    stage: int
    precision: Precision
    micro: int
    """Streams of a micro step."""
    slots: int
    held: Held
    memory: int
    """Memory of the streams, with the one that is being made."""
    activations: int
    """At the moment that needs most, with working space and what the allocator wastes."""
    at_once: int
    """All that the device holds at that moment; not all gradients may be there."""
    host: int
    """In the host's memory, if the rank computes on a GPU."""
    sent: Sent
    fits: bool | None
    """True if `at_once` is below the device's memory; None if that is not known."""
    largest_micro: int | None
    """The largest micro batch that fits; None if none does, or the memory is not known."""
    flops_per_token: float | None
    """Operations of the products of matrices; None for a model of others."""
    step_s: float | None
    """Estimated seconds of a step; None where operations are not known."""
    device_hours: float | None
    """Estimated hours to the last step, times devices."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The plan of a training with each of several DeepSpeed files."""

    machine: Machine
    vocabulary_size: int
    n_tokens: int | None
    """Tokens of the text; None if not known."""
    parameters: int
    tokens_per_step: int
    steps_per_epoch: int | None
    epochs: float | None
    flops_per_token: float | None
    checkpoint_bytes: int
    rows: tuple[Row, ...]


def forecast(
    experiment: ExperimentConfig,
    words: Words,
    machine: Machine,
    *,
    files: Mapping[str, ResolvedDs],
    n_tokens: int | None,
) -> Forecast:
    """Return the plan of an experiment.

    Args:
        experiment: what is trained.
        words: the vocabulary.
        machine: the devices.
        files: completed DeepSpeed files by name, a row each.
        n_tokens: tokens of the train split; None if not known.

    Raises:
        InputError: the model cannot be built.
    """
    with torch.device("meta"):
        model = build_model(experiment.model, vocabulary_size=words.size, seed=0)
    numels = [p.numel() for p in model.parameters()]
    together = brought_together(experiment.optim, model)
    train = experiment.train
    per_epoch = epochs = None
    if n_tokens is not None:
        positions = Positions(
            n_pairs=n_tokens - 1,
            n_streams=train.train_batch_size,
            stages=train.stages,
            epoch_order="same",
            seed=0,
        )
        per_epoch, epochs = positions.steps_per_epoch, positions.epochs(train.max_steps)
    rows = tuple(
        _row(name, resolved, experiment, words, machine, numels, together)
        for name, resolved in files.items()
    )
    return Forecast(
        machine=machine,
        vocabulary_size=words.size,
        n_tokens=n_tokens,
        parameters=sum(numels),
        tokens_per_step=train.tokens_per_step,
        steps_per_epoch=per_epoch,
        epochs=epochs,
        flops_per_token=rows[0].flops_per_token,
        checkpoint_bytes=12 * sum(numels),
        rows=rows,
    )


def _row(
    name: str,
    resolved: ResolvedDs,
    experiment: ExperimentConfig,
    words: Words,
    machine: Machine,
    numels: Sequence[int],
    together: Sequence[Matrices],
) -> Row:
    """Return what a training would need and send with one DeepSpeed file."""
    device = torch.device("cuda" if machine.on_gpu else "cpu")
    world = World(rank=0, world_size=machine.n_devices, local_rank=0, device=device)
    backend: BackendName | None = None
    if machine.on_gpu:  # which need not be here
        backend = "plain" if experiment.model.kernels == "plain" else "triton"
    budget = Budget(experiment, words, resolved, world, backend=backend)
    how, needs = budget.how, budget.needs
    zero = resolved.values["zero_optimization"]
    holds = held(numels, how, zero, n_multiplied=budget.weights.multiplied)
    sends = sent(numels, how, zero, together=together)
    activations = sum(n for part, n in needs.device.items() if part not in _NOT_ACTIVATIONS)
    step_s = None
    flops = budget.flops_per_token if experiment.model.builder is None else None
    if flops is not None:
        tokens = experiment.train.tokens_per_step
        passes = flops * tokens / machine.n_devices
        # At stage 3 every rank has a part of each matrix, and makes all of them orthogonal.
        of_update = orthogonal(together) / (1 if how.stage == 3 else machine.n_devices)
        computing_s = (passes + of_update) / machine.flops_per_s
        step_s = computing_s + sends.sum / machine.bytes_per_s
    # The check of a run's memory leaves out what is small enough to stay whole at stage 3.
    at_once = needs.device_bytes + holds.kept_whole
    total = None
    if machine.memory_gib is not None:
        total = int(machine.memory_gib * GIB) - (at_once - needs.device_bytes)
    hours = experiment.train.max_steps * machine.n_devices / 3600
    return Row(
        file=name,
        stage=how.stage,
        precision=how.precision,
        micro=how.micro,
        slots=how.slots,
        held=holds,
        memory=needs.device.get("memory", 0),
        activations=activations,
        at_once=at_once,
        host=needs.host_bytes,
        sent=sends,
        fits=None if total is None else needs.device_bytes <= total,
        largest_micro=None if total is None else budget.micro_that_fits(total),
        flops_per_token=flops,
        step_s=step_s,
        device_hours=None if step_s is None else step_s * hours,
    )
