"""Train language models that carry memory across text: Transformer-XL on DeepSpeed."""

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.metrics import read_metrics
from trainer.shell import typed_path

if TYPE_CHECKING:
    from trainer.inference import TrainedModel

__all__ = ["load", "read_metrics"]


def load(path: str | Path, *, device: str = "cpu", trust: bool = False) -> "TrainedModel":
    """The model that `txl export` wrote to `path`, or the best one of a run's directory.

    Needs neither deepspeed nor wandb. With `trust`, code that the directory names as its model
    (`model.factory`) is imported and run.

    Raises:
        trainer.errors.InputError: there is none, it is not whole, or it names code without `trust`.
    """
    import torch

    from trainer.inference import open_trained

    at = torch.device(device)
    return open_trained(typed_path(path), which="best", precision="fp32", device=at, trust=trust)
