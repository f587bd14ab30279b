"""What a training command would do, known and checked before a process talks to another."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from trainer import ds_config, engine
from trainer.arguments import TrainArguments
from trainer.config import ExperimentConfig
from trainer.data.corpus import Corpus, open_corpus
from trainer.data.streams import Streams
from trainer.data.vocabulary import encode_given
from trainer.distributed import World, this_process
from trainer.errors import InputError
from trainer.measure import Measure
from trainer.model.build import build_model
from trainer.results import valid_measure
from trainer.tracking import check_tracking


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything known before a process talks to another."""

    arguments: TrainArguments
    world: World
    corpus: Corpus
    resolved: ds_config.ResolvedDs
    streams: Streams

    @property
    def valid_of(self) -> Measure | None:
        """What validation losses are of; None without a valid split."""
        scoring = self.arguments.experiment.valid
        return valid_measure(self.corpus, scoring, precision=self.resolved.precision)


def make_plan(arguments: TrainArguments, environ: Mapping[str, str]) -> Plan:
    """Check all that can be checked alone: the same answer on every rank.

    Raises:
        InputError: the first thing that does not fit.
    """
    experiment = arguments.experiment
    world = this_process(environ, device=arguments.device)
    name = arguments.deepspeed_config or _default_ds_config(world.device)
    raw = ds_config.load_ds_config(name)
    resolved = ds_config.resolve(raw, experiment, world_size=world.world_size, where=name)
    engine.check_device(resolved, world.device)
    check_tracking(experiment.tracking, environ=environ)
    corpus = open_corpus(arguments.data)
    check_splits(experiment, corpus)
    if experiment.sample.interval_steps:
        encode_given(corpus.vocabulary, experiment.sample.prompt, what="--sample.prompt")
    streams = Streams(
        split=corpus.splits["train"], train_batch_size=experiment.train.train_batch_size,
        tgt_len=experiment.train.tgt_len, slots=resolved.gradient_accumulation_steps,
        rank=world.rank, world_size=world.world_size, epoch_order=experiment.data.epoch_order,
        memory_reset=experiment.data.memory_reset, seed=experiment.seed,
        cutoffs=experiment.model.cutoffs,
    )  # fmt: skip
    return Plan(arguments=arguments, world=world, corpus=corpus, resolved=resolved, streams=streams)


def check_splits(experiment: ExperimentConfig, corpus: Corpus) -> None:
    """Make sure that the corpus has the text that the run is to train and to be judged on.

    Raises:
        InputError: there is no train split, nothing to predict in valid, or no valid although a
            setting rests on it.
    """
    if "train" not in corpus.splits:
        raise InputError(f"{corpus.path} has no train split: prepare it with --train")
    settings, valid = experiment.valid, corpus.splits.get("valid")
    rest_on_it = {"--expect.ppl": experiment.expect.ppl, "--valid.patience": settings.patience}
    for flag, value in rest_on_it.items():
        if value is not None and valid is None:
            raise InputError(
                f"{flag} needs a valid split, and {corpus.path} has none: prepare it with --valid "
                f"or --split, or leave {flag} out"
            )
    if valid is not None and settings.interval_steps and valid.n_tokens < 2:
        raise InputError(
            f"{corpus.path}: split valid has one token and nothing to predict: prepare it with "
            "more text, or train without validation (--valid.interval-steps 0)"
        )


def describe_plan(plan: Plan) -> str:
    """What `--dry-run` prints: both configurations resolved, and what the run would need."""
    experiment, streams, resolved = plan.arguments.experiment, plan.streams, plan.resolved
    size = plan.corpus.vocabulary.size
    with torch.device("meta"):
        model = build_model(experiment.model, vocabulary_size=size, seed=0)
    n_parameters = sum(p.numel() for p in model.parameters())
    world_size, stage = plan.world.world_size, resolved.zero_stage
    compute_bytes = 4 if resolved.precision in ("fp32", "bf16_autocast") else 2
    state_bytes = 8 if stage == 0 else 12  # Adam's moments, and fp32 weights beside the model's
    per_rank = n_parameters * (
        2 * compute_bytes / (world_size if stage == 3 else 1)
        + state_bytes / (world_size if stage > 0 else 1)
    )
    n_tokens = experiment.train.train_batch_size * experiment.train.tgt_len
    memory_bytes = (
        experiment.model.n_layer * experiment.train.mem_len * experiment.model.d_model
        * streams.micro * streams.slots * compute_bytes
    )  # fmt: skip
    needs = {
        "parameters": n_parameters,
        "ranks": world_size,
        "tokens_per_step": n_tokens,
        "steps_per_epoch": streams.steps_per_epoch,
        "epochs": round(experiment.train.max_steps / streams.steps_per_epoch, 2),
        "weights_gradients_optimizer_gib_per_rank": round(per_rank / 2**30, 3),
        "memory_gib_per_rank": round(memory_bytes / 2**30, 3),
        "checkpoint_gib": round(n_parameters * 12 / 2**30, 3),
    }
    configs = {"experiment": experiment.model_dump(mode="json"), "deepspeed": resolved.values}
    return json.dumps(configs | {"needs": needs}, indent=2)


def _default_ds_config(device: torch.device) -> str:
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ds_config.default_name(accelerator="cuda", bf16=has_bf16)
    has = torch.cpu.get_capabilities()
    native = bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return ds_config.default_name(accelerator="cpu", bf16=native)
