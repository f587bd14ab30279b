"""What the trainer's own plan of memory says of a variant's steps."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from measured.dims import Dims
from measured.ours import corpus_of, experiment_of
from measured.variants import Variant

from trainer.budget.check import GIB, Budget, words_of
from trainer.config.deepspeed.file import load_ds_config, resolve
from trainer.distributed import World


def planned_gib(dims: Dims, variant: Variant, *, device: str) -> float:
    """Return GiB of the device that a rank alone needs for steps, as `--dry-run` tells it."""
    experiment = experiment_of(dims, 0.1, kernels=variant.kernels)
    changes = {
        "train": experiment.train.model_copy(update={"cuda_graph": variant.cuda_graph}),
        "valid": experiment.valid.model_copy(update={"interval_steps": 0}),
    }
    experiment = experiment.model_copy(update=changes)
    raw = load_ds_config(variant.ds_config)
    resolved = resolve(raw, experiment, world_size=1, where=variant.ds_config)
    world = World(rank=0, world_size=1, local_rank=0, device=torch.device(device))
    with tempfile.TemporaryDirectory() as folder:
        corpus = corpus_of(replace(dims, n_streams=1), Path(folder), train=100)
        words = words_of(experiment.model, corpus)
        return Budget(experiment, words, resolved, world).needs.device_bytes / GIB
