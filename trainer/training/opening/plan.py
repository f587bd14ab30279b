"""The plan of a training command, checked before any process talks to another."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainer.budget import machine
from trainer.budget.check import GIB, Budget, device_there, words_of
from trainer.budget.peaks import peak_tflops
from trainer.budget.sizes import How
from trainer.config.command_line.arguments import TrainArguments
from trainer.config.deepspeed.file import ResolvedDs, default_names, load_ds_config, resolve
from trainer.config.recipe import ExperimentConfig
from trainer.data.corpus import Corpus, open_corpus
from trainer.data.streams import Streams
from trainer.data.vocabulary.files import encode_given
from trainer.distributed import World, has_fast_bf16, this_process
from trainer.engine.deepspeed import check_device
from trainer.errors import InputError
from trainer.track.measure import Measure
from trainer.track.opening import check_tracking
from trainer.track.run_files.results import valid_measure


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything known before a process talks to another."""

    arguments: TrainArguments
    world: World
    corpus: Corpus
    resolved: ResolvedDs
    streams: Streams
    budget: Budget | None
    """The run's memory needs; None for a model that is not ours, which is built only to train."""
    n_sharing: int
    """The number of ranks that run on this host and share its memory."""

    def situation(self) -> str:
        """Return the sizes of a run that ran out of memory, and which of them to lower."""
        if self.budget is not None:
            return self.budget.situation()
        micro, train = self.streams.micro, self.arguments.experiment.train
        return (
            f"with train_micro_batch_size_per_gpu {micro}, tgt_len {train.tgt_len}, bptt_segments "
            f"{train.bptt_segments} and mem_len {train.mem_len} of a model of others: lower them "
            "(--train.train-micro-batch-size-per-gpu, --train.tgt-len, --train.bptt-segments, "
            "--train.mem-len)"
        )

    @property
    def peak_tokens_per_s(self) -> float | None:
        """Return the tokens that a device at its peak would train on in a second.

        None for a model that is not ours, whose operations are not known, for lengths that change,
        as operations per token do with them, and for a device whose peak is not known or given.
        """
        experiment = self.arguments.experiment
        tflops = experiment.tracking.peak_tflops
        if tflops is None and self.world.device.type == "cuda":
            gpu = torch.cuda.get_device_name(self.world.device)
            tflops = peak_tflops(gpu, self.resolved.precision, tf32=experiment.train.tf32)
        sizes = {stage.lengths[:2] for stage in experiment.train.stages}
        if tflops is None or self.budget is None or len(sizes) > 1:
            return None
        return 1e12 * tflops / self.budget.flops_per_token

    @property
    def valid_of(self) -> Measure | None:
        """Return the measure of validation losses; None without a valid split."""
        scoring = self.arguments.experiment.valid
        return valid_measure(self.corpus, scoring, precision=self.resolved.precision)


def make_plan(arguments: TrainArguments, environ: Mapping[str, str]) -> Plan:
    """Check everything that needs no other process; every rank gets the same plan or error.

    Raises:
        InputError: names the first thing that does not fit.
    """
    experiment = arguments.experiment
    world = this_process(environ, device=arguments.device)
    usual = default_names(accelerator=world.device.type, bf16=has_fast_bf16(world.device))
    names = [arguments.deepspeed_config] if arguments.deepspeed_config else usual
    resolved = _resolved(names[0], experiment, world)
    check_tracking(experiment.tracking, environ=environ)
    corpus = open_corpus(arguments.data)
    check_splits(experiment, corpus)
    check_segments(experiment, corpus)
    if experiment.sample.interval_steps:
        encode_given(corpus.vocabulary, experiment.sample.prompt, what="--sample.prompt")
    budget = None
    if experiment.model.builder is None:
        words = words_of(experiment.model, corpus)
        budget = Budget(experiment, words, resolved, world)
        for other in names[1:]:
            if budget.fits(device_there(world)):
                break
            resolved = _resolved(other, experiment, world)
            budget = Budget(experiment, words, resolved, world)
        check_kernels(experiment, budget.how)
    streams = Streams(
        split=corpus.splits["train"],
        train_batch_size=experiment.train.train_batch_size,
        stages=experiment.train.stages,
        slots=resolved.gradient_accumulation_steps,
        rank=world.rank,
        world_size=world.world_size,
        epoch_order=experiment.data.epoch_order,
        piece_tokens=experiment.data.piece_tokens,
        memory_reset=experiment.data.memory_reset,
        seed=experiment.seed,
        cutoffs=experiment.model.cutoffs,
    )
    return Plan(
        arguments=arguments,
        world=world,
        corpus=corpus,
        resolved=resolved,
        streams=streams,
        budget=budget,
        n_sharing=int(environ["LOCAL_SIZE"]),
    )


def _resolved(name: str, experiment: ExperimentConfig, world: World) -> ResolvedDs:
    """Read and complete a DeepSpeed file, whose precision the device must have."""
    raw = load_ds_config(name)
    resolved = resolve(raw, experiment, world_size=world.world_size, where=name)
    check_device(resolved, world.device)
    return resolved


def check_splits(experiment: ExperimentConfig, corpus: Corpus) -> None:
    """Make sure that the corpus has the splits that the run needs.

    Raises:
        InputError: there is no train split, the valid split has nothing to predict, or it is
            missing although a setting needs it.
    """
    if "train" not in corpus.splits:
        raise InputError(f"{corpus.path} has no train split: prepare it with --train")
    config, valid = experiment.valid, corpus.splits.get("valid")
    rest_on_it = {"--expect.ppl": experiment.expect.ppl, "--valid.patience": config.patience}
    for flag, value in rest_on_it.items():
        if value is not None and valid is None:
            raise InputError(
                f"{flag} needs a valid split, and {corpus.path} has none: prepare it with --valid "
                f"or --split, or leave {flag} out"
            )
    if valid is not None and config.interval_steps and valid.n_tokens < 2:
        raise InputError(
            f"{corpus.path}: split valid has one token and nothing to predict: prepare it with "
            "more text, or train without validation (--valid.interval-steps 0)"
        )


def check_segments(experiment: ExperimentConfig, corpus: Corpus) -> None:
    """Make sure that each stream holds at least a segment: otherwise every step reads padding.

    Raises:
        InputError: the train split is too short for so many streams of such segments.
    """
    streams, tgt_len = experiment.train.train_batch_size, experiment.train.tgt_len
    n_pairs = corpus.splits["train"].n_tokens - 1
    longest = -(-n_pairs // streams)
    if longest >= tgt_len or n_pairs < streams:  # `Streams` raises for too few pairs
        return
    raise InputError(
        f"a segment of train.tgt_len {tgt_len:,} is longer than a stream: the train split of "
        f"{corpus.path} has {n_pairs + 1:,} tokens, {longest:,} for each of train.train_batch_size "
        f"{streams:,}. Use --train.tgt-len up to {longest}, or --train.train-batch-size up to "
        f"{-(-n_pairs // (tgt_len - 1)) - 1}, or more text"
    )


def check_kernels(experiment: ExperimentConfig, how: How) -> None:
    """Make sure that a step's segments can be computed with the run's kernels.

    Raises:
        InputError: kernels read a layer's weights by themselves, for which ZeRO-3 gathers them when
            the layer is called, and only once a step.
    """
    if experiment.train.bptt_segments > 1 and how.stage == 3 and how.backend == "triton":
        raise InputError(
            f"train.bptt_segments {experiment.train.bptt_segments} calls a layer more than once a "
            "step, for which ZeRO-3 does not gather what kernels read: use --model.kernels plain, "
            "or a DeepSpeed file of stage 0, 1 or 2"
        )


def describe_plan(plan: Plan, start: Mapping[str, Any]) -> str:
    """Return the text of `--dry-run`: both resolved configurations, `start`, and memory needs.

    `start` is the result of `trainer.training.opening.dry_run.describe_start`.
    """
    experiment, streams = plan.arguments.experiment, plan.streams
    words = words_of(experiment.model, plan.corpus)
    budget = plan.budget or Budget(experiment, words, plan.resolved, plan.world)
    needs = {
        "parameters": budget.weights.total,
        "ranks": plan.world.world_size,
        "tokens_per_step": experiment.train.tokens_per_step,
        "steps_per_epoch": streams.steps_per_epoch,
        "epochs": round(streams.epochs(experiment.train.max_steps), 2),
        "checkpoint_gib": round(budget.weights.total * 12 / GIB, 3),
        **budget.described(),
        "there_are_gib": _there(plan.world),
    }
    configs = {"experiment": experiment.model_dump(mode="json"), "deepspeed": plan.resolved.values}
    return json.dumps(configs | {"start": start, "needs": needs}, indent=2)


def _there(world: World) -> dict[str, dict[str, float]]:
    """Return the memory of this host and of the rank's GPU, by name."""
    found = [machine.of_host(), device_there(world)]
    return {
        there.what: {"total": round(there.total / GIB, 3), "free": round(there.free / GIB, 3)}
        for there in found
        if there is not None
    }
