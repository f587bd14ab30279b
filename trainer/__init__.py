"""Train language models that carry memory across text: Transformer-XL on DeepSpeed.

The functions import what they need when they are called: every command reads this file before it
can handle a Ctrl-C.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.inference.trained import TrainedModel
    from trainer.track.records import Record, RecordKind

__all__ = ["load", "read_metrics"]


def load(path: str | Path, *, device: str = "cpu", trust: bool = False) -> "TrainedModel":
    """Return the model that `txl export` wrote to `path`, or the best one of a run's directory.

    Neither deepspeed nor wandb is needed. With `trust`, code that the directory names as its model
    (`model.factory`) is imported and run.

    Raises:
        trainer.errors.InputError: there is no model, it is not whole, or it names code without
            `trust`.
    """
    import torch

    from trainer.inference.loading import open_trained
    from trainer.shell import typed_path

    at = torch.device(device)
    return open_trained(typed_path(path), which="best", precision="fp32", device=at, trust=trust)


def read_metrics(run_dir: str | Path, *, kind: "RecordKind | None" = None) -> "list[Record]":
    """Return a run's records by ascending step, each step once per kind, and all events.

    `trainer.track.metrics.read_metrics` says which record is kept of a step that was done again.

    Args:
        run_dir: the run's directory.
        kind: the only kind of record wanted; None means all.

    Raises:
        trainer.errors.InputError: the run has no file of records, or a newer version of the trainer
            wrote it.
    """
    from trainer.track import metrics

    return metrics.read_metrics(run_dir, kind=kind)
