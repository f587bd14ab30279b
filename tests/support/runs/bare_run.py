"""A run with what `train_step` needs and no more, inside the process that asks for it."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast
from unittest import mock

from trainer.config.deepspeed.file import resolve
from trainer.config.recipe import ExperimentConfig
from trainer.data.corpus import open_corpus
from trainer.data.read_ahead import SegmentReader
from trainer.data.streams import Streams
from trainer.distributed import World
from trainer.engine import deepspeed
from trainer.engine.passes.captured import passes_of
from trainer.model.build import build_model
from trainer.training.bad_losses.stream_losses import StreamLosses
from trainer.training.run import Run


def bare_run(
    world: World, corpus: Path, raw: Mapping[str, Any], experiment: ExperimentConfig
) -> Run:
    """Return a run on a connected rank; nobody reads its events. The caller destroys its engine."""
    resolved = resolve(raw, experiment, world_size=world.world_size, where="test")
    opened = open_corpus(corpus)
    n_words = opened.vocabulary.size
    model = build_model(experiment.model, vocabulary_size=n_words, seed=0)
    built = deepspeed.build(
        model,
        optim=experiment.optim,
        max_steps=9,
        resolved=resolved,
        world=world,
        unrolls=experiment.train.bptt_segments > 1,
    )
    streams = Streams(
        split=opened.splits["train"],
        train_batch_size=experiment.train.train_batch_size,
        stages=experiment.train.stages,
        slots=built.slots,
        rank=world.rank,
        world_size=world.world_size,
        cutoffs=experiment.model.cutoffs,
    )
    used = {
        "experiment": experiment,
        "streams": streams,
        "engine": built,
        "passes": passes_of(built, experiment.train),
        "world": world,
        "tracker": mock.Mock(),
        "losses": StreamLosses(streams.slots * streams.micro, world.device),
        "reader": SegmentReader(streams, world.device, n_ahead=0),
    }
    return cast(Any, Run)(**{field.name: used.get(field.name) for field in fields(Run)})
