"""Train language models that carry memory across text: Transformer-XL on DeepSpeed.

What these functions need is imported when they are called: every command reads this file before it
can do anything about a Ctrl-C.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.inference.trained import TrainedModel
    from trainer.track.records import Record, RecordKind

__all__ = ["load", "read_metrics"]


def load(path: str | Path, *, device: str = "cpu", trust: bool = False) -> "TrainedModel":
    """The model that `txl export` wrote to `path`, or the best one of a run's directory.

    Needs neither deepspeed nor wandb. With `trust`, code that the directory names as its model
    (`model.factory`) is imported and run.

    Raises:
        trainer.errors.InputError: there is none, it is not whole, or it names code without `trust`.
    """
    import torch

    from trainer.inference.trained import open_trained
    from trainer.shell import typed_path

    at = torch.device(device)
    return open_trained(typed_path(path), which="best", precision="fp32", device=at, trust=trust)


def read_metrics(run_dir: str | Path, *, kind: "RecordKind | None" = None) -> "list[Record]":
    """The records of a run, by ascending step, every step once per kind; all events.

    `trainer.track.metrics.read_metrics` says how steps that were done again are told apart.

    Args:
        run_dir: the run's directory.
        kind: the only kind of record wanted; None is all.

    Raises:
        trainer.errors.InputError: there is no such record, or a newer version of the trainer wrote
            it.
    """
    from trainer.track import metrics

    return metrics.read_metrics(run_dir, kind=kind)
