"""The commands of ``txl`` that show runs, recipes, settings and exit codes.

Heavy imports wait until a command runs; none of these commands imports torch or deepspeed.
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
        from trainer.report.table import report

        said = report(self.runs, as_json=self.json, plot=self.plot)
        print(said.text)
        if not said.n_shown:
            raise InputError(f"nothing to show: {counted(len(self.runs), 'folder')}, no run")


@dataclass(frozen=True)
class Show:
    """Print a recipe and a DeepSpeed file as a run here would use them, changed by any flag."""

    argv: tuple[str, ...]
    """as of the training command: a recipe, --deepspeed-config, --world-size, flags of fields"""

    def run(self) -> None:
        """Print both."""
        from trainer.config.arguments import parse_show
        from trainer.config.deepspeed import default_names, show

        arguments = parse_show(self.argv)
        name = arguments.deepspeed_config
        if name is None:
            from trainer.distributed import choose_device, has_fast_bf16

            device = choose_device(arguments.device, local_rank=0)
            name = default_names(accelerator=device.type, bf16=has_fast_bf16(device))[0]
        print(show(arguments.experiment, name, world_size=arguments.world_size))


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
            model, train = load_recipe(name).model, load_recipe(name).train
            print(
                f"{name:28} {model.n_layer:2} layers, d_model {model.d_model:4}, tgt_len "
                f"{train.tgt_len:3}, {train.train_batch_size:3} streams, "
                f"{train.max_steps:,} steps"
            )


@dataclass(frozen=True)
class ExitCodes:
    """List the exit codes."""

    def run(self) -> None:
        """Print a line each."""
        for code in Exit:
            print(f"{code:3} {code.describe()}")
