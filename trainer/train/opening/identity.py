"""Descriptions of a run for its checkpoints, its records and the log."""

import logging
from pathlib import Path
from typing import Any

from trainer.distributed import World
from trainer.outside import printable
from trainer.track.measure import corpus_label
from trainer.track.status import Status
from trainer.train.expectations import missed
from trainer.train.opening.plan import Plan
from trainer.wording import counted

log = logging.getLogger(__name__)


def identity_of(plan: Plan, world: World) -> dict[str, Any]:
    """Return a checkpoint's description of its run: configurations, hashes, number of ranks."""
    return {
        "experiment": plan.arguments.experiment.model_dump(mode="json"),
        "ds_config": plan.resolved.values,
        "corpus": plan.corpus.hash,
        "splits": plan.corpus.split_hashes,
        "vocabulary": plan.corpus.vocabulary.hash,
        "precision": plan.resolved.precision,
        "world_size": world.world_size,
    }


def data_of(plan: Plan) -> dict[str, str]:
    """Return a run's data and precision, for its first event."""
    return {
        "corpus_name": plan.corpus.name,
        "corpus_hash": plan.corpus.hash,
        "precision": plan.resolved.precision,
    }


def tracked_of(plan: Plan, world: World) -> dict[str, Any]:
    """Return a run's configuration for trackers: its identity, and the measure of validations."""
    of = plan.valid_of
    return {
        **identity_of(plan, world),
        **data_of(plan),
        "valid_of": of and of.model_dump(mode="json"),
    }


def introduce(plan: Plan, run_dir: Path, *, n_parameters: int, world: World) -> None:
    """Log in two lines which model is trained on which data, and what validations measure."""
    resolved, corpus = plan.resolved, plan.corpus
    size, ranks = counted(n_parameters, "parameter"), counted(world.world_size, "rank")
    log.info(
        "%s: %s, %s, ZeRO-%s, %s", run_dir, size, resolved.precision, resolved.zero_stage, ranks
    )
    text = f"train of {corpus_label(corpus.name, corpus.hash)}"
    tokens = counted(corpus.splits["train"].n_tokens, "token")
    log.info("trains on %s: %s; validates on %s", text, tokens, plan.valid_of or "nothing")


def judge_again(plan: Plan, run_dir: Path, done: Status) -> list[str]:
    """Log the result of a finished run; return the targets that it misses. Rank 0."""
    result = done.result or {}
    told = ", ".join(f"{name} {value}" for name, value in result.items() if value is not None)
    best = f"; the best is on {done.best_of}" if done.best_of else ""
    log.info("%s is done: %s%s", run_dir, printable(told), best)
    expect = plan.arguments.experiment.expect
    return missed(expect, result, best_of=done.best_of, of=plan.valid_of)
