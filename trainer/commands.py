"""The commands of ``txl``: what each is told, field by field, and what it does.

Heavy imports wait until a command runs: those that only read import neither torch nor deepspeed.
Those that run a model are in `trainer.model_commands`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from trainer.data.prepare import PrepareOptions, prepare
from trainer.errors import Exit


@dataclass(frozen=True)
class Prepare:
    """Turn text into a corpus."""

    options: tyro.conf.OmitArgPrefixes[PrepareOptions]

    def run(self) -> None:
        """Prepare, and say what was made and what to do next."""
        for line in prepare(self.options, stdin=sys.stdin.buffer).lines():
            print(line)


@dataclass(frozen=True)
class ShowCorpus:
    """Show what a corpus holds."""

    corpus: tyro.conf.Positional[Path]
    """folder made by `txl prepare`"""

    def run(self) -> None:
        """Print a line per split."""
        from trainer.data.corpus import open_corpus

        corpus = open_corpus(self.corpus)
        print(f"{corpus.path}: {corpus.vocabulary.kind}, vocabulary {corpus.vocabulary.size:,}")
        for split in corpus.splits.values():
            print(
                f"{split.name:5} {split.n_tokens:>14,} tokens {split.n_words:>13,} words "
                f"{len(split.document_starts):>9,} documents"
            )


@dataclass(frozen=True)
class Verify:
    """Read a corpus whole and compare every block with its hash."""

    corpus: tyro.conf.Positional[Path]
    """folder made by `txl prepare`"""

    def run(self) -> None:
        """Verify."""
        from trainer.data.corpus import verify_corpus

        verify_corpus(self.corpus)
        print(f"{self.corpus}: whole")


@dataclass(frozen=True)
class Report:
    """Show where runs stand, their curves and their evaluations."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """directories of runs"""
    json: bool = False
    """as JSON"""
    plot: Path | None = None
    """draw the loss curves into this file; needs matplotlib"""

    def run(self) -> None:
        """Print the report."""
        from trainer.report import report

        print(report(self.runs, as_json=self.json, plot=self.plot))


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
        from trainer.ds_config import show

        print(show(self.recipe, self.deepspeed_config, world_size=self.world_size))


@dataclass(frozen=True)
class Schema:
    """Print the JSON Schema of recipes and DeepSpeed files."""

    def run(self) -> None:
        """Print it."""
        from trainer.ds_config import schema

        print(schema())


@dataclass(frozen=True)
class Recipes:
    """List the packaged recipes."""

    def run(self) -> None:
        """Print a line each."""
        from trainer.config import load_recipe, recipe_names

        for name in recipe_names():
            model, settings = load_recipe(name).model, load_recipe(name).train
            print(
                f"{name:14} {model.n_layer:2} layers, d_model {model.d_model:4}, tgt_len "
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
