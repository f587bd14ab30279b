"""Comparing a planned run's memory needs with the memory available, and saying what to lower."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from trainer.budget import flops, machine, needs
from trainer.budget.activations import PassSize
from trainer.budget.machine import There
from trainer.budget.needs import Needs
from trainer.budget.sizes import How, Weights, Words
from trainer.config.deepspeed.checks import lookup
from trainer.config.deepspeed.file import ResolvedDs
from trainer.config.deepspeed.keys import OWN_RULES
from trainer.config.divisors import divisors
from trainer.config.factory import named, told
from trainer.config.recipe import ExperimentConfig, ModelConfig
from trainer.data.corpus import Corpus
from trainer.distributed import World
from trainer.errors import InputError
from trainer.memory_tree import leaves
from trainer.model.build import build_model, check_cutoffs
from trainer.model.choice import BackendName, backend_name
from trainer.model.precision import compute_dtype_of

#: Tokens that are read to estimate each cluster's share of the targets.
_LOOKED_AT = 1 << 20
#: Elements of DeepSpeed's bucket, if the configuration does not say.
_BUCKET = 500_000_000
GIB = 1 << 30


class Budget:
    """The memory needs of a planned run, and of the run with other micro batches."""

    def __init__(
        self,
        experiment: ExperimentConfig,
        words: Words,
        resolved: ResolvedDs,
        world: World,
        *,
        backend: BackendName | None = None,
    ) -> None:
        """Count the needs; no weight is allocated.

        Args:
            experiment: what is trained.
            words: the vocabulary.
            resolved: how it is trained.
            world: a rank.
            backend: what computes on the rank's device; None asks the device, which must be there.

        Raises:
            InputError: the model cannot be built, see `build_model`.
        """
        self._experiment = experiment
        self._words = words
        dtype = compute_dtype_of(resolved.precision)
        self.weights = count_weights(
            experiment.model, words.size, mem_len=experiment.train.mem_len, dtype=dtype
        )
        self.how = _how(experiment, resolved, world, backend)
        self.needs = self._counted(self.how)

    @property
    def flops_per_token(self) -> float:
        """Return the operations of training per token, see `trainer.budget.flops`."""
        train = self._experiment.train
        size = PassSize(n_rows=self.how.micro, tgt_len=train.tgt_len, mem_len=train.mem_len)
        tables, shares = self.weights.tables, self._words.shares
        return flops.per_token(self._experiment.model, size, tables=tables, shares=shares)

    def _counted(self, how: How) -> Needs:
        return needs.count(self._experiment, self.weights, how, shares=self._words.shares)

    def fits(self, device: There | None) -> bool:
        """Return whether a GPU of this memory, if there is one, has what the run needs of it."""
        return device is None or self.needs.device_bytes <= device.total

    def problem(self, there: There, *, n_sharing: int, device: There | None) -> str | None:
        """Return what the run needs but cannot get, and what to lower; None if all fits.

        Args:
            there: the host's memory.
            n_sharing: the number of ranks on this host.
            device: the memory of the rank's GPU, if the rank computes on one.
        """
        if device is not None and not self.fits(device):
            return self._shortage(self.needs.device_bytes, device.total, device.what, 1)
        needed = self.needs.host_bytes if device is not None else self.needs.device_bytes
        if needed * n_sharing > there.total:
            return self._shortage(needed, there.total, there.what, n_sharing)
        return None

    def _shortage(self, needed: int, total: int, what: str, n_sharing: int) -> str:
        ranks = f" for {n_sharing} ranks" if n_sharing > 1 else ""
        return (
            f"the run needs {_gib(needed)} GiB per rank, {self.largest_part()}, and {what} has "
            f"{_gib(total)}{ranks}: {self.advice(total // n_sharing)}"
        )

    def largest_part(self) -> str:
        """Return the largest part of the needs, in words."""
        name, n_bytes = max(self.needs.device.items(), key=lambda item: item[1])
        return f"{_gib(n_bytes)} of them {name} at {self.needs.moment}"

    def situation(self) -> str:
        """Return needs and sizes of a run that ran out of memory, and what to lower."""
        train = self._experiment.train
        several = f"bptt_segments {train.bptt_segments}, " if train.bptt_segments > 1 else ""
        return (
            f"by the plan a rank needs {_gib(self.needs.device_bytes)} GiB, {self.largest_part()}, "
            f"with train_micro_batch_size_per_gpu {self.how.micro}, tgt_len {train.tgt_len}, "
            f"{several}mem_len {train.mem_len} and a vocabulary of {self._words.size:,}: "
            f"{self._to_lower()}"
        )

    def advice(self, total: int) -> str:
        """Return which settings to lower so that a rank needs less than `total` bytes."""
        how, valid = self.how, self._experiment.valid
        if self.needs.moment == "validation":
            return (
                f"lower --valid.batch-size ({valid.batch_size}), --valid.tgt-len "
                f"({valid.tgt_len}) or --valid.mem-len ({valid.mem_len})"
            )
        states = sum(map(self._part, ("weights", "optimizer states", "optimizer's own weights")))
        if states > total:
            return (
                f"weights and the optimizer's states alone are {_gib(states)}: use more ranks with "
                "--deepspeed-config zero3_bf16, or a smaller --model.d-model, --model.n-layer or "
                "vocabulary"
            )
        fitting = self.micro_that_fits(total)
        if fitting:
            return f"--train.train-micro-batch-size-per-gpu {fitting} (now {how.micro}) fits"
        return self._to_lower()

    def _to_lower(self) -> str:
        """Return the settings to lower to make a step's own needs smaller."""
        how, train = self.how, self._experiment.train
        flags: list[str] = []
        if how.micro > 1:
            flags.append(f"--train.train-micro-batch-size-per-gpu ({how.micro})")
        if train.bptt_segments > 1:
            flags.append(f"--train.bptt-segments ({train.bptt_segments})")
        flags.append(f"--train.tgt-len ({train.tgt_len})")
        if train.mem_len:
            flags.append(f"--train.mem-len ({train.mem_len})")
        more = (
            ""
            if self._experiment.model.activation_checkpointing
            else (", or set --model.activation-checkpointing True")
        )
        return f"lower {', '.join(flags)}{more}"

    def _part(self, name: str) -> int:
        return self.needs.device.get(name, 0)

    def micro_that_fits(self, total: int) -> int | None:
        """Return the largest micro batch with which a rank needs at most `total` bytes, if any."""
        share = self.how.micro * self.how.slots
        for micro in reversed(divisors(share)):
            other = replace(self.how, micro=micro, slots=share // micro)
            if self._counted(other).device_bytes <= total:
                return micro
        return None

    def described(self) -> dict[str, Any]:
        """Return the needs as `--dry-run` prints them, in GiB per rank."""
        needs: dict[str, Any] = {
            "gib_per_rank": _table(self.needs.device),
            "largest_at": self.needs.moment,
        }
        if self.needs.host:
            needs["host_gib_per_rank"] = _table(self.needs.host)
        return needs


def count_weights(
    config: ModelConfig,
    vocabulary_size: int,
    *,
    mem_len: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Weights:
    """Return the sizes of a model's weights, and of its state if the model is not ours.

    Our model is not built for this; another model is built without allocating its weights.

    Args:
        config: the model.
        vocabulary_size: the number of words.
        mem_len: tokens of memory.
        dtype: what the model computes in.
    """
    check_cutoffs(config, vocabulary_size)
    if config.builder is None:
        return Weights.of(config, vocabulary_size)
    meta = torch.device("meta")
    with meta:
        model: Any = build_model(config, vocabulary_size=vocabulary_size, seed=0)
        try:
            state = model.empty_memory(1, mem_len=mem_len, dtype=dtype, device=meta)
        except Exception as error:  # any code
            raise InputError(
                f"{named(config.builder)}: its empty_memory fails on the device `meta`, where "
                f"tensors have sizes alone: {told(error)}"
            ) from error
    parts = [part for _, part in leaves(state) if isinstance(part, torch.Tensor)]
    numels = [p.numel() for p in model.parameters()]
    return Weights(
        total=sum(numels),
        layer=0,
        largest=max(numels, default=0),
        tables=(),
        state_bytes=sum(part.numel() * part.element_size() for part in parts),
    )


def device_there(world: World) -> There | None:
    """Return the memory of the rank's GPU; None if the rank computes on the CPU."""
    if world.device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(world.device)
    return There(total, free, torch.cuda.get_device_name(world.device))


def check_memory(budget: Budget, world: World, *, n_sharing: int, insist: bool) -> list[str]:
    """Refuse a run that needs more memory than exists; return warnings if the free memory is less.

    Raises:
        InputError: the run needs more than its GPU, machine, control group or limit ever has.
    """
    there, device = machine.of_host(), device_there(world)
    problem = budget.problem(there, n_sharing=n_sharing, device=device)
    if problem is not None and not insist:
        raise InputError(f"{problem} (--beyond-memory starts it all the same)")
    if problem is not None:
        return [problem]
    needed = budget.needs.host_bytes if device is not None else budget.needs.device_bytes
    warnings = []
    for n_bytes, place in ((needed * n_sharing, there), (budget.needs.device_bytes, device)):
        if place is not None and n_bytes > place.free:
            warnings.append(
                f"the run needs {_gib(n_bytes)} GiB, and of {_gib(place.total)} of {place.what} "
                f"{_gib(place.free)} are free now"
            )
    return warnings


def words_of(model: ModelConfig, corpus: Corpus) -> Words:
    """Return the vocabulary of a corpus, and a model's clusters as they occur in its text."""
    if not model.cutoffs:
        return Words(corpus.vocabulary.size, (1.0,))
    tokens = np.asarray(corpus.splits["train"].tokens[:_LOOKED_AT])
    cluster = np.searchsorted(np.asarray(model.cutoffs), tokens, side="right")
    counts = np.bincount(cluster, minlength=len(model.cutoffs) + 1)
    shares = (float(n) / max(1, len(tokens)) for n in counts[1:])
    return Words(corpus.vocabulary.size, (1.0, *shares))


def _how(
    experiment: ExperimentConfig, resolved: ResolvedDs, world: World, backend: BackendName | None
) -> How:
    """Return how the run computes, as far as its memory depends on that."""
    dtype = torch.float32 if resolved.precision == "fp32" else torch.bfloat16
    bucket = lookup(resolved.values, "zero_optimization.reduce_bucket_size")
    fused = resolved.optimizer.fused is not False and not resolved.optimizer.offload
    return How(
        backend=backend or backend_name(experiment.model.kernels, world.device, dtype),
        precision=resolved.precision,
        stage=resolved.zero_stage,
        world_size=world.world_size,
        micro=resolved.train_micro_batch_size_per_gpu,
        slots=resolved.gradient_accumulation_steps,
        offload=resolved.optimizer.offload,
        bucket=int(bucket) if isinstance(bucket, int | float) else _BUCKET,
        on_gpu=world.device.type == "cuda",
        fused_adam=fused and experiment.optim.type not in OWN_RULES,
        captured=world.device.type == "cuda"
        and resolved.zero_stage <= 1
        and not resolved.optimizer.offload
        and not lookup(resolved.values, "zero_optimization.overlap_comm")
        and experiment.train.cuda_graph != "off"
        and experiment.train.bptt_segments == 1
        and not experiment.model.activation_checkpointing,
    )


def _table(parts: Mapping[str, int]) -> dict[str, float]:
    told = {name: round(n / GIB, 3) for name, n in parts.items() if n}
    return told | {"sum": round(sum(parts.values()) / GIB, 3)}


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / GIB:,.1f}" if n_bytes >= GIB else f"{n_bytes / GIB:.2f}"
