"""Checking a model in the process that calls: `trainer.check_model`."""

from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

from trainer.calls.restoring import restoring
from trainer.config.command_line.check_model import recipe_of
from trainer.config.command_line.flags import changed
from trainer.config.recipe import load_recipe
from trainer.conformance.all_checks import all_checks
from trainer.conformance.checks import Checked
from trainer.distributed import choose_device
from trainer.host_cpu import use_cpu_well


def check_model(
    target: str,
    *,
    overrides: Mapping[str, Any],
    fast: bool,
    device: Literal["auto", "cpu", "cuda"],
    environ: MutableMapping[str, str],
) -> list[Checked]:
    """Check a model; see `trainer.check_model`. `environ` is the environment of the process."""
    recipe, changes = recipe_of(target)
    experiment = changed(load_recipe(recipe), {**changes, **overrides})
    with restoring(environ):
        at = choose_device(device, local_rank=0)
        if at.type == "cpu":
            use_cpu_well()
        return list(all_checks(experiment, fast=fast, device=at, environ=environ))
