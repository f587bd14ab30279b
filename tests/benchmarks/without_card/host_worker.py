"""This trainer's step as the host of a GPU does it: kernels, and a captured graph, do nothing."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed chooses when it is imported
os.environ["TRITON_INTERPRET"] = "0"
sys.path.append(str(Path(__file__).parents[2] / "support/triton"))

import torch
from as_on_a_gpu import as_on_a_gpu
from deepspeed.accelerator import get_accelerator
from measured.dims import CONFIGS
from measured.ours import training
from measured.worker import serve
from without_card.files import CAPTURED

from trainer.distributed import this_process
from trainer.engine import deepspeed
from trainer.engine.passes.graphs import Emulated
from trainer.launchers import complete_environ
from trainer.training.loop import train_step


class Replayed(Emulated):
    """Work that is done once; after that its results are there, as a graph's are."""

    def _later(self) -> Any:
        return self._results or super()._later()

    def _first(self) -> Any:
        if self._results is None:
            return super()._first()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self._results


def main(task: dict[str, Any]) -> None:
    """Serve steps."""
    os.environ.update(complete_environ(os.environ))
    world = deepspeed.connect(this_process(os.environ, device="cpu"), timeout_s=600)
    # What is asked of the host does not depend on whether this CPU computes in fp16.
    type(get_accelerator()).is_fp16_supported = lambda self: True
    ds_file = task["ds_config"].removesuffix(CAPTURED)
    how = {"cuda_graph": "off" if ds_file == task["ds_config"] else "on", "dropout": 0.1}
    nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
    with (
        as_on_a_gpu("triton", nothing),
        # What a kernel leaves as it is must be a number, or every update would be skipped.
        mock.patch.object(torch, "empty_like", torch.zeros_like),
        mock.patch.object(torch.Tensor, "new_empty", torch.Tensor.new_zeros),
        mock.patch("trainer.engine.passes.captured.Emulated", Replayed),
        training(
            CONFIGS[task["config"]], ds_file=ds_file, world=world, n_segments=10**4, **how
        ) as (run, state),
    ):
        serve(lambda: train_step(run, state).loss_sum, device=torch.device("cpu"))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
