"""This trainer as users run it: DeepSpeed's engine and `loop.train_step`, or the scoring model.

The peer attends zeros at first and does not predict the last word of a segment; so the memory
starts as zeros marked valid, and that target is ignored, to have the same work and loss.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from dims import CONFIGS, Dims, text
from torch import nn
from worker import serve

from trainer import ds_config, engine
from trainer.config import ExperimentConfig, experiment_from
from trainer.data.corpus import Split, open_corpus
from trainer.data.corpus_writer import SplitWriter
from trainer.data.read_ahead import AHEAD, SegmentReader
from trainer.data.rows import clusters_of
from trainer.data.streams import Streams
from trainer.data.vocabulary import VOCABULARY_FILE, WordVocabulary, save_vocabulary
from trainer.distributed import World, complete_environ, this_process
from trainer.evaluate import reading
from trainer.foreign.layouts import read_foreign
from trainer.foreign.names import table_of, to_ours
from trainer.host_cpu import use_cpu_well
from trainer.loop import empty_memories, train_step
from trainer.model.build import build_model
from trainer.protocol import IGNORED, Memory, Segment, reading_memory
from trainer.run import Run
from trainer.state import TrainState


class PeersTargets(Streams):
    """Streams whose segments lack their last target, and whose memory is never taken away."""

    def segment(self, data_step: int, slot: int) -> Segment:
        """The segment, its last column of targets ignored."""
        segment = super().segment(data_step, slot)
        targets_BT = segment.targets_BT.clone()
        targets_BT[:, -1] = IGNORED
        return segment._replace(
            targets_BT=targets_BT, target_clusters=clusters_of(targets_BT.numpy(), self.cutoffs),
            n_tokens=segment.n_tokens - len(targets_BT),
        )  # fmt: skip

    def n_tokens(self, data_step: int) -> int:
        """Targets that are left."""
        return super().n_tokens(data_step) - self.train_batch_size

    def begins_epoch(self, data_step: int) -> bool:
        """The first memory is made here, not by the loop."""
        return False


def experiment_of(dims: Dims, dropout: float, *, kernels: str = "auto") -> ExperimentConfig:
    """The experiment that a configuration is."""
    lengths = {
        "tgt_len": dims.tgt_len, "mem_len": dims.mem_len, "same_length": dims.same_length,
        "clamp_len": dims.clamp_len if dims.clamp_len > 0 else None,
    }  # fmt: skip
    model = {
        name: getattr(dims, name)
        for name in ("n_layer", "d_model", "n_head", "d_head", "d_inner", "cutoffs")
    }
    values = {
        "model": {**model, "dropout": dropout, "kernels": kernels},
        "train": {"train_batch_size": dims.n_streams, "max_steps": 10**6, **lengths},
        "optim": {"lr": 2.5e-4, "min_lr": 2.5e-4},
        "valid": lengths,
        "eval": lengths,
    }
    return experiment_from(values, where="benchmark")


def split_of(dims: Dims, n_segments: int, folder: Path) -> Split:
    """The same text as the peer's rows, row after row, which is how streams read it."""
    vocabulary = WordVocabulary(["<eos>", "<unk>", *(f"w{i}" for i in range(2, dims.vocab_size))])
    save_vocabulary(vocabulary, folder / VOCABULARY_FILE)
    ids = np.append(text(dims, n_segments=n_segments).reshape(-1), 0).astype(np.uint32)
    writer = SplitWriter(folder, "train", vocabulary)
    writer.add(ids, n_words=len(ids), n_characters=len(ids), ends_document=True)
    writer.finish(splits=["train"], made={})
    return open_corpus(folder).splits["train"]


def valid_zeros(memory: Memory) -> Memory:
    """The memory with all of its zeros to be attended."""
    mem_len = memory.hidden_LBMD.shape[2]
    return memory._replace(valid_B=torch.full_like(memory.valid_B, mem_len), valid_min=mem_len)


def trainer_of(
    model: nn.Module, experiment: ExperimentConfig, streams: Streams, ds_name: str, world: World
) -> Callable[[], torch.Tensor]:
    """Steps of training, through DeepSpeed's engine."""
    resolved = ds_config.resolve(
        ds_config.load_ds_config(ds_name), experiment, world_size=1, where="benchmark"
    )
    world = engine.connect(world, timeout_s=600)
    built = engine.build(
        model, optim=experiment.optim, max_steps=10**6, resolved=resolved, world=world
    )
    parts = {
        "experiment": experiment, "streams": streams, "engine": built, "world": world,
        "reader": SegmentReader(streams, world.device, n_ahead=AHEAD[world.device.type]),
    }  # fmt: skip
    run = cast(Any, Run)(**dict.fromkeys(f.name for f in fields(Run)) | parts)
    state = TrainState()
    state.memories = [valid_zeros(memory) for memory in empty_memories(run)]

    def train() -> torch.Tensor:
        stats = train_step(run, state)
        return stats.loss_sum / stats.n_tokens

    built.train(True)
    return train


def scorer_of(
    model: nn.Module, experiment: ExperimentConfig, streams: Streams, split: Split, world: World
) -> Callable[[], torch.Tensor]:
    """Scoring as `txl eval` does it; a call is worth tgt_len tokens, whatever is read at a time."""
    scoring, n_streams = experiment.eval, streams.train_batch_size
    tgt_len = reading(scoring, split).tgt_len
    longer = replace(streams, tgt_len=tgt_len)
    model.to(world.device).eval()
    memory = valid_zeros(
        reading_memory(
            model, n_streams, mem_len=scoring.mem_len, dtype=torch.float32, device=world.device
        )
    )
    told: list[torch.Tensor] = []
    n_read = 0

    @torch.no_grad()
    def evaluate() -> torch.Tensor:
        nonlocal memory, n_read
        if not told:
            output = model(
                longer.segment(n_read, 0).to(world.device), memory, clamp_len=scoring.clamp_len,
                same_length=scoring.same_length,
            )  # fmt: skip
            memory, n_read = output.memory, n_read + 1
            pieces = output.nll_BT.split(scoring.tgt_len, dim=1)
            told.extend(piece[:, :-1].mean() for piece in pieces)
        return told.pop(0)

    return evaluate


@contextmanager
def step_of(task: dict[str, Any]) -> Iterator[tuple[Callable[[], torch.Tensor], torch.device]]:
    """A step of training, or of evaluation, and where it runs.

    The task's keys are those of `compare.Worker`; without weights, random ones are taken.
    """
    dims = CONFIGS[task["config"]]
    experiment = experiment_of(dims, task["dropout"], kernels=task["kernels"])
    os.environ.update(complete_environ(os.environ))
    world = this_process(os.environ, device=task["device"])
    model = build_model(experiment.model, vocabulary_size=dims.vocab_size, seed=0)
    if "weights" in task:
        _load(model, Path(task["weights"]), experiment, dims)
    if world.device.type == "cpu":
        use_cpu_well()
    with tempfile.TemporaryDirectory() as folder:
        split = split_of(dims, task["n_segments"], Path(folder))
        shape = {
            "split": split, "train_batch_size": dims.n_streams, "tgt_len": dims.tgt_len, "slots": 1,
            "rank": 0, "world_size": 1, "cutoffs": dims.cutoffs,
        }  # fmt: skip
        if task["mode"] == "train":
            streams = PeersTargets(**shape)
            yield trainer_of(model, experiment, streams, task["ds_config"], world), world.device
        else:
            streams = Streams(**shape)
            yield scorer_of(model, experiment, streams, split, world), world.device


def _load(model: nn.Module, path: Path, experiment: ExperimentConfig, dims: Dims) -> None:
    table = table_of(experiment.model, dims.vocab_size)
    weights = to_ours(read_foreign(path).tensors, table, where=str(path))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights.pop(name))


def main(task: dict[str, Any]) -> None:
    """Serve steps of training, or of evaluation."""
    with step_of(task) as (step, device):
        serve(step, device=device)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
