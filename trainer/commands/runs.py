"""The commands of ``txl`` that show runs and what they are made from: recipes, settings, codes.

Heavy imports wait until a command runs: these take neither torch nor deepspeed.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from trainer.errors import Exit, InputError
from trainer.wording import counted


@dataclass(frozen=True)
class Report:
    """Show where runs stand, their curves and their evaluations.

    A directory that cannot be shown is named with the reason; the exit code is 0 where any is
    shown, 2 where none is.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """directories of runs"""
    json: bool = False
    """as JSON"""
    plot: Path | None = None
    """draw the loss curves into this file; needs matplotlib"""

    def run(self) -> None:
        """Print the report; bad input where not one of the directories can be shown."""
        from trainer.track.report import report

        said = report(self.runs, as_json=self.json, plot=self.plot)
        print(said.text)
        if not said.n_shown:
            raise InputError(f"nothing to show: {counted(len(self.runs), 'folder')}, no run")


@dataclass(frozen=True)
class Show:
    """Print a recipe and a DeepSpeed file as a run would use them."""

    recipe: tyro.conf.Positional[str]
    """packaged name, or a JSON file"""
    deepspeed_config: str = "zero1_bf16"
    """packaged name, or a JSON file"""
    world_size: int = 1
    """ranks that share the batch"""

    def run(self) -> None:
        """Print both."""
        from trainer.config.deepspeed import show

        print(show(self.recipe, self.deepspeed_config, world_size=self.world_size))


@dataclass(frozen=True)
class Schema:
    """Print the JSON Schema of recipes and DeepSpeed files."""

    def run(self) -> None:
        """Print it."""
        from trainer.config.deepspeed import schema

        print(schema())


@dataclass(frozen=True)
class Recipes:
    """List the packaged recipes."""

    def run(self) -> None:
        """Print a line each."""
        from trainer.config.recipe import load_recipe, recipe_names

        for name in recipe_names():
            model, settings = load_recipe(name).model, load_recipe(name).train
            print(
                f"{name:28} {model.n_layer:2} layers, d_model {model.d_model:4}, tgt_len "
                f"{settings.tgt_len:3}, {settings.train_batch_size:3} streams, "
                f"{settings.max_steps:,} steps"
            )


@dataclass(frozen=True)
class ExitCodes:
    """List the exit codes."""

    def run(self) -> None:
        """Print a line each."""
        for code in Exit:
            print(f"{code:3} {code.describe()}")
