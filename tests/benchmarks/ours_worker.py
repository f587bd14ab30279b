"""This trainer as users run it: DeepSpeed's engine and `loop.train_step`, or the scoring model.

Hugging Face's model attends zeros at first and does not predict the last word of a segment; against
it the memory starts as zeros marked valid, and that target is ignored, to have the same work and
loss. Against the others nothing is changed.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from dims import CONFIGS
from ours import experiment_of, training
from worker import serve

from trainer import engine
from trainer.data.rows import clusters_of
from trainer.data.streams import Streams
from trainer.distributed import complete_environ, this_process
from trainer.foreign.layouts import read_foreign
from trainer.foreign.names import table_of, to_ours
from trainer.host_cpu import use_cpu_well
from trainer.loop import train_step
from trainer.protocol import IGNORED, Memory, Segment


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


def valid_zeros(memory: Memory) -> Memory:
    """The memory with all of its zeros to be attended."""
    mem_len = memory.hidden_LBMD.shape[2]
    return memory._replace(valid_B=torch.full_like(memory.valid_B, mem_len), valid_min=mem_len)


def main(task: dict[str, Any]) -> None:
    """Serve steps of training, or of evaluation."""
    dims, is_huggingface = CONFIGS[task["config"]], task["style"] == "huggingface"
    os.environ.update(complete_environ(os.environ))
    world = this_process(os.environ, device=task["device"])
    table = table_of(experiment_of(dims, 0.0).model, dims.vocab_size)
    weights = to_ours(read_foreign(Path(task["weights"])).tensors, table, where=task["weights"])
    if world.device.type == "cpu":
        use_cpu_well()
    with training(
        dims, ds_file=task["ds_config"], world=engine.connect(world, timeout_s=600),
        n_segments=task["n_segments"], dropout=task["dropout"], weights=weights,
        streams_type=PeersTargets if is_huggingface else Streams,
    ) as (run, state):  # fmt: skip
        if is_huggingface:
            state.memories = [valid_zeros(memory) for memory in state.memories]

        def train() -> torch.Tensor:
            stats = train_step(run, state)
            return stats.loss_sum / stats.n_tokens

        def evaluate() -> torch.Tensor:
            segment = run.streams.segment(state.data_step, 0).to(world.device)
            state.data_step += 1
            with torch.no_grad():
                output = run.engine(
                    segment, state.memories[0], clamp_len=run.experiment.eval.clamp_len,
                    same_length=run.experiment.eval.same_length,
                )  # fmt: skip
            state.memories[0] = output.memory
            return output.loss_sum / segment.n_tokens

        run.engine.train(task["mode"] == "train")
        serve(train if task["mode"] == "train" else evaluate, device=world.device)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
