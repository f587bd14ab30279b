"""This trainer as users run it, for benchmarks: DeepSpeed's engine under `loop.train_step`."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from measured.dims import Dims, text
from torch import Tensor, nn

from trainer.checkpoint.state import TrainState
from trainer.config.deepspeed.file import load_ds_config, resolve
from trainer.config.recipe import ExperimentConfig, experiment_from
from trainer.data.corpus import Corpus, Split, open_corpus
from trainer.data.prepare.writer import SplitWriter
from trainer.data.read_ahead import AHEAD, SegmentReader
from trainer.data.streams import Streams
from trainer.data.vocabulary.files import VOCABULARY_FILE, WordVocabulary, save_vocabulary
from trainer.distributed import World
from trainer.engine import deepspeed
from trainer.engine.passes.captured import passes_of
from trainer.model.build import build_model
from trainer.training.bad_losses.stream_losses import StreamLosses
from trainer.training.run import Run


def experiment_of(dims: Dims, dropout: float, *, kernels: str = "auto") -> ExperimentConfig:
    """Return the experiment that a configuration is."""
    lengths = {
        "tgt_len": dims.tgt_len,
        "mem_len": dims.mem_len,
        "same_length": dims.same_length,
        "clamp_len": dims.clamp_len if dims.clamp_len > 0 else None,
    }
    model = {
        name: getattr(dims, name)
        for name in (
            *("n_layer", "d_model", "n_head", "d_head", "d_inner"),
            *("cutoffs", "div_val", "attn_dropout"),
        )
    }
    values = {
        "model": {**model, "dropout": dropout, "kernels": kernels},
        "train": {"train_batch_size": dims.n_streams, "max_steps": 10**6, **lengths},
        "optim": {"lr": 2.5e-4, "min_lr": 2.5e-4},
        "valid": lengths,
        "eval": lengths,
    }
    return experiment_from(values, where="benchmark")


def corpus_of(dims: Dims, folder: Path, **n_segments: int) -> Corpus:
    """Write a corpus of splits of so many segments; its text is that of the peer's rows in turn.

    That is how streams read it.
    """
    vocabulary = WordVocabulary(["<eos>", "<unk>", *(f"w{i}" for i in range(2, dims.vocab_size))])
    save_vocabulary(vocabulary, folder / VOCABULARY_FILE)
    for seed, (name, n) in enumerate(n_segments.items()):
        ids = np.append(text(dims, n_segments=n, seed=seed).reshape(-1), 0).astype(np.uint32)
        writer = SplitWriter(folder, name, vocabulary)
        writer.add(ids, n_words=len(ids), n_characters=len(ids), ends_document=True)
        writer.finish(splits=list(n_segments), made={})
    return open_corpus(folder)


def split_of(dims: Dims, n_segments: int, folder: Path) -> Split:
    """Return the split to train on of such a corpus."""
    return corpus_of(dims, folder, train=n_segments).splits["train"]


def model_of(
    dims: Dims, experiment: ExperimentConfig, weights: dict[str, Tensor] | None
) -> nn.Module:
    """Return the model, with the parameters that are taken out of `weights`, or with fresh ones."""
    model = build_model(experiment.model, vocabulary_size=dims.vocab_size, seed=0)
    if weights is not None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights.pop(name))
    return model


@contextmanager
def training(
    dims: Dims,
    *,
    ds_file: str,
    world: World,
    n_segments: int,
    dropout: float = 0.1,
    weights: dict[str, Tensor] | None = None,
    streams_type: type[Streams] = Streams,
    kernels: str = "auto",
    cuda_graph: str = "auto",
) -> Iterator[tuple[Run, TrainState]]:
    """Yield a run that is ready for `train_step`, its memory empty, in a connected `world`.

    Args:
        dims: `n_streams` are those of all ranks.
        ds_file: a packaged DeepSpeed file.
        world: of this process.
        n_segments: of every stream before its text begins anew.
        dropout: probability.
        weights: the parameters by name, which are taken out of it; None are fresh ones.
        streams_type: what reads the text.
        kernels: the model's setting.
        cuda_graph: the experiment's setting.
    """
    experiment = experiment_of(dims, dropout, kernels=kernels)
    train = experiment.train.model_copy(update={"cuda_graph": cuda_graph})
    experiment = experiment.model_copy(update={"train": train})
    model = model_of(dims, experiment, weights)
    raw = load_ds_config(ds_file)
    resolved = resolve(raw, experiment, world_size=world.world_size, where="benchmark")
    with tempfile.TemporaryDirectory() as folder:
        streams = streams_type(
            split=split_of(dims, n_segments, Path(folder)),
            train_batch_size=dims.n_streams,
            stages=experiment.train.stages,
            slots=1,
            rank=world.rank,
            world_size=world.world_size,
            cutoffs=dims.cutoffs,
        )
        built = deepspeed.build(
            model, optim=experiment.optim, max_steps=10**6, resolved=resolved, world=world
        )
        used = {
            "experiment": experiment,
            "streams": streams,
            "engine": built,
            "passes": passes_of(built, experiment.train),
            "world": world,
            "losses": StreamLosses(streams.slots * streams.micro, world.device),
            "reader": SegmentReader(streams, world.device, n_ahead=AHEAD[world.device.type]),
        }
        run = cast(Any, Run)(**{field.name: used.get(field.name) for field in fields(Run)})
        yield run, TrainState(memories=run.empty_memories(0))
