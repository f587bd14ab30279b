"""Descriptions of a run for its checkpoints, its records and the log."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config.changes import Change
from trainer.distributed import World
from trainer.outside import printable
from trainer.track.console.ending import Last, ending
from trainer.track.measure import corpus_label
from trainer.track.perplexity import perplexity
from trainer.track.run_files.status import Status
from trainer.training.ending.expectations import missed
from trainer.training.opening.plan import Plan
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


def precision_change(saved: Mapping[str, Any], plan: Plan) -> list[Change]:
    """Return the change of precision since a checkpoint, if any; log it.

    Any checkpoint may be resumed in any precision, but the numbers are other ones.
    """
    before, now = saved.get("precision"), plan.resolved.precision
    if before in (None, now):
        return []
    log.info("from here on the run is in %s, before it was in %s", now, printable(str(before)))
    return [Change("precision", before, now, "announced")]


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
    loss = result.get("train/loss")
    last = {}
    if isinstance(loss, float):
        last["train"] = Last(done.step, loss, perplexity(loss))
    log.info("%s is done already: nothing is left to train", run_dir)
    for line in ending(done, last, run=str(run_dir), splits=tuple(plan.corpus.splits)):
        log.info("%s", line)
    if done.best_of is not None:
        log.info("the best is on %s", done.best_of)
    expect = plan.arguments.experiment.expect
    return missed(expect, result, best_of=done.best_of, of=plan.valid_of)
