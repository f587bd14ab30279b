"""The commands of ``txl``: what each is told, field by field, and what it does.

Heavy imports wait until a command runs: those that only read import neither torch nor deepspeed.
Those that run a model are in `trainer.commands.models`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from trainer.amounts import counted
from trainer.data.prepare.from_known import prepare_known
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.data.prepare.known import known_corpus
from trainer.data.prepare.report import Report as PrepareReport
from trainer.errors import Exit, InputError
from trainer.escaping import LOGGED_CHARACTERS, printable


@dataclass(frozen=True)
class Prepare:
    """Turn text into a corpus: your own, or one that the field knows by name."""

    options: tyro.conf.OmitArgPrefixes[PrepareOptions]
    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[NAME]")] = None
    """wikitext-103, wikitext-2, enwik8, text8 or ptb: downloaded, and made into what published
    results are of; goes with --out, --overwrite, --from and --cache alone"""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """NAME: folder that has its files, packed or not; nothing is downloaded"""
    cache: Path | None = None
    """NAME: folder that keeps downloads; by default `downloads` beside --out"""

    def run(self) -> None:
        """Prepare, and say what was made and what to do next."""
        _say(*self._prepared().lines())

    def _prepared(self) -> PrepareReport:
        if self.name is not None:
            corpus = known_corpus(self.name)
            return prepare_known(corpus, self.options, source=self.source, cache=self.cache)
        if self.source or self.cache:
            raise InputError("--from and --cache: for a known corpus; give its name (see --help)")
        stdin = None if sys.stdin is None else sys.stdin.buffer
        return prepare(self.options, stdin=stdin)


@dataclass(frozen=True)
class ShowCorpus:
    """Show what a corpus holds."""

    corpus: tyro.conf.Positional[Path]
    """folder made by `txl prepare`"""

    def run(self) -> None:
        """Print a line per split."""
        from trainer.data.corpus import open_corpus

        corpus = open_corpus(self.corpus)
        _say(f"{corpus.path}: {corpus.vocabulary.kind}, vocabulary {corpus.vocabulary.size:,}")
        for split in corpus.splits.values():
            print(
                f"{split.name:5} {split.n_tokens:>14,} tokens {split.n_words:>13,} words "
                f"{len(split.document_starts):>9,} documents"
            )
            for name, reason in split.absent.items():
                print(f"      {name} is not given: {reason}")


@dataclass(frozen=True)
class Verify:
    """Read a corpus whole and compare every block with its hash."""

    corpus: tyro.conf.Positional[Path]
    """folder made by `txl prepare`"""

    def run(self) -> None:
        """Verify."""
        from trainer.data.corpus import verify_corpus

        verify_corpus(self.corpus)
        _say(f"{self.corpus}: whole")


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


@dataclass(frozen=True)
class Import:
    """Bring in a checkpoint of Hugging Face, kimiyoung, NVIDIA or fairseq."""

    checkpoint: tyro.conf.Positional[Path]
    """its file, or the folder it lies in"""
    out: Path
    """run directory to make"""
    vocab: Path | None = None
    """vocab.pkl, vocab.txt, cache.pt, dict.txt, or a corpus of ours, if not beside it"""
    recipe: str | None = None
    """says what the checkpoint does not; None is the one of the same sizes"""

    def run(self) -> None:
        """Import, and say what was found and what to do next."""
        from trainer.exchange.importing import import_checkpoint

        imported = import_checkpoint(
            self.checkpoint, out=self.out, vocab=self.vocab, recipe=self.recipe
        )
        _say(*imported.lines())


@dataclass(frozen=True)
class Export:
    """Write a trained model for use elsewhere: weights, configuration, vocabulary, model card."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run")]
    """directory of the run"""
    out: Path
    """folder to make"""
    checkpoint: str = "best"
    """best, last, a step, or a path"""
    as_: Annotated[Literal["txl", "huggingface"], tyro.conf.arg(name="as")] = "txl"
    """for trainer.load, or for transformers 4.35"""

    def run(self) -> None:
        """Export, and say where to."""
        from trainer.exchange.exporting import export

        export(self.run_dir, out=self.out, which=self.checkpoint, form=self.as_)
        _say(f"{self.out}: see its README.md")


def _say(*lines: str) -> None:
    """Print lines, whatever the names in them hold."""
    for line in lines:
        print(printable(line, most=LOGGED_CHARACTERS))
