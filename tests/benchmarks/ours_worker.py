"""This trainer as users run it: DeepSpeed's engine and `loop.train_step`, or the scoring model.

Hugging Face's model attends zeros at first and does not predict the last word of a segment; against
it the memory starts as zeros marked valid, and that target is ignored, to have the same work and
loss. Against the others nothing is changed.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measured.dims import CONFIGS, Dims
from measured.ours import experiment_of, model_of, split_of, training
from measured.worker import serve
from torch import nn

from trainer.config.recipe import ExperimentConfig
from trainer.data.rows import clusters_of
from trainer.data.streams import Streams
from trainer.distributed import World, this_process
from trainer.engine import deepspeed
from trainer.exchange.layouts import read_foreign
from trainer.exchange.names import table_of, to_ours
from trainer.host_cpu import use_cpu_well
from trainer.inference.score import ScorePlan, fastest
from trainer.launchers import complete_environ
from trainer.model.memory.inputs import LayerInputs
from trainer.protocol import IGNORED, Segment, layered, reading_memory
from trainer.training.loop import train_step


class PeersTargets(Streams):
    """Streams whose segments lack their last target, and whose memory is never taken away."""

    def segment(self, data_step: int, slot: int, part: int = 0) -> Segment:
        """Return the segment, its last column of targets ignored."""
        segment = super().segment(data_step, slot, part)
        targets_BT = segment.targets_BT.clone()
        targets_BT[:, -1] = IGNORED
        return segment._replace(
            targets_BT=targets_BT,
            target_clusters=clusters_of(targets_BT.numpy(), self.cutoffs),
            n_tokens=segment.n_tokens - len(targets_BT),
        )

    def n_tokens(self, data_step: int) -> int:
        """Return the number of targets that are left."""
        return super().n_tokens(data_step) - self.train_batch_size

    def forgets_memory(self, data_step: int) -> bool:
        """Return False: the first memory is made here, not by the loop."""
        return False


def valid_zeros(memory: LayerInputs) -> LayerInputs:
    """Return the memory with all of its zeros to be attended."""
    mem_len = memory.layers[0].shape[1]
    return memory._replace(valid_B=torch.full_like(memory.valid_B, mem_len), valid_min=mem_len)


def scorer_of(
    module: nn.Module,
    experiment: ExperimentConfig,
    streams: Streams,
    world: World,
    *,
    is_huggingface: bool,
) -> Callable[[], torch.Tensor]:
    """Return a function that scores as `txl eval` does; a call is worth tgt_len tokens."""
    scoring = experiment.eval
    plan = ScorePlan(
        n_pairs=10**6,
        scoring=scoring,
        reach=layered(experiment.model.n_layer),
        rank=0,
        world_size=1,
    )
    streams = replace(streams, tgt_len=fastest(plan).scoring.tgt_len)
    module.to(world.device).eval()
    memory = reading_memory(
        module,
        streams.train_batch_size,
        mem_len=scoring.mem_len,
        dtype=torch.float32,
        device=world.device,
    )
    memory = valid_zeros(memory) if is_huggingface else memory
    told: list[torch.Tensor] = []
    n_read = 0

    @torch.no_grad()
    def evaluate() -> torch.Tensor:
        nonlocal memory, n_read
        if not told:
            output = module(
                streams.segment(n_read, 0).to(world.device),
                memory,
                clamp_len=scoring.clamp_len,
                same_length=scoring.same_length,
            )
            memory, n_read = output.memory, n_read + 1
            pieces = output.nll_BT.split(scoring.tgt_len, dim=1)
            told.extend(piece[:, : scoring.tgt_len - is_huggingface].mean() for piece in pieces)
        return told.pop(0)

    return evaluate


def weights_of(dims: Dims, path: Path) -> dict[str, torch.Tensor]:
    """Return parameters by our names, of a peer's file."""
    table = table_of(experiment_of(dims, 0.0).model, dims.vocab_size)
    return to_ours(read_foreign(path).tensors, table, where=str(path))


def main(task: dict[str, Any]) -> None:
    """Serve steps of training, or of evaluation."""
    dims, is_huggingface = CONFIGS[task["config"]], task["style"] == "huggingface"
    os.environ.update(complete_environ(os.environ))
    world = this_process(os.environ, device=task["device"])
    weights = weights_of(dims, Path(task["weights"])) if "weights" in task else None
    if world.device.type == "cpu":
        use_cpu_well()
    elif task["matmul"] != "highest":
        torch.set_float32_matmul_precision(task["matmul"])
    if task["mode"] == "evaluate":
        experiment = experiment_of(dims, 0.0)
        with tempfile.TemporaryDirectory() as folder:
            streams = Streams(
                split=split_of(dims, task["n_segments"], Path(folder)),
                slots=1,
                rank=0,
                train_batch_size=dims.n_streams,
                stages=experiment.train.stages,
                world_size=1,
                cutoffs=dims.cutoffs,
            )
            module = model_of(dims, experiment, weights)
            step = scorer_of(module, experiment, streams, world, is_huggingface=is_huggingface)
            serve(step, device=world.device)
        return
    with training(
        dims,
        ds_file=task["ds_config"],
        world=deepspeed.connect(world, timeout_s=600),
        n_segments=task["n_segments"],
        dropout=task["dropout"],
        weights=weights,
        streams_type=PeersTargets if is_huggingface else Streams,
        kernels=task["kernels"],
        cuda_graph=task["cuda_graph"],
    ) as (run, state):
        if is_huggingface:
            state.memories = [valid_zeros(memory) for memory in state.memories]

        def train() -> torch.Tensor:
            stats = train_step(run, state)
            return stats.loss_sum / stats.n_tokens

        run.engine.train(True)
        serve(train, device=world.device)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
