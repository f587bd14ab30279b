"""All checks of a model: those of this process, then those of trainings."""

from collections.abc import Iterator, Mapping

import torch

from trainer.config.recipe import ExperimentConfig
from trainer.conformance.checks import Checked, examined
from trainer.conformance.trainings import trained


def all_checks(
    experiment: ExperimentConfig, *, fast: bool, device: torch.device, environ: Mapping[str, str]
) -> Iterator[Checked]:
    """Yield what becomes of each check, as soon as it is known.

    Args:
        experiment: its section `model` is checked.
        fast: whether to leave out trainings.
        device: where to compute; trainings are on the CPU, and left out elsewhere.
        environ: the environment of the trainings' processes.

    Raises:
        InputError: the model cannot be built.
    """
    yield from examined(experiment.model, device=device)
    if not fast and device.type == "cpu":
        yield from trained(experiment, environ=environ)
