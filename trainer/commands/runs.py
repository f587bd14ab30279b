"""The commands of ``txl`` that show recipes, settings and exit codes.

Heavy imports wait until a command runs; none of these commands imports torch or deepspeed.
"""

from dataclasses import dataclass

from trainer.errors import Exit


@dataclass(frozen=True)
class Show:
    """Print a recipe and a DeepSpeed file as a run here would use them, changed by any flag."""

    argv: tuple[str, ...]
    """as of the training command: a recipe, --deepspeed-config, --world-size, flags of fields"""

    def run(self) -> None:
        """Print the resolved recipe and DeepSpeed file."""
        from trainer.config.command_line.arguments import parse_show
        from trainer.config.deepspeed.file import default_names, show

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
        """Print the schemas."""
        from trainer.config.deepspeed.file import schema

        print(schema())


@dataclass(frozen=True)
class Recipes:
    """List the packaged recipes."""

    def run(self) -> None:
        """Print a line per recipe."""
        from trainer.config.recipe import load_recipe, recipe_names

        for name in recipe_names():
            model, train = load_recipe(name).model, load_recipe(name).train
            shape = f"{model.kind:24}"
            if model.builder is None:
                shape = f"{model.n_layer:2} layers, d_model {model.d_model:4}"
            print(
                f"{name:28} {shape}, tgt_len {train.tgt_len:3}, "
                f"{train.train_batch_size:3} streams, "
                f"{train.max_steps:,} steps"
            )


@dataclass(frozen=True)
class Reference:
    """Print every exit code, option, setting and metric with its meaning, as Markdown."""


@dataclass(frozen=True)
class ExitCodes:
    """List the exit codes."""

    def run(self) -> None:
        """Print a line per code."""
        for code in Exit:
            print(f"{code:3} {code.describe()}")
