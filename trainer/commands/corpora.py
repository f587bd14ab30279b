"""The commands of ``txl`` about text and corpora: their options, and what they do.

Heavy imports wait until a command runs; none of these commands imports torch or deepspeed.
"""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from trainer.commands.standard_streams import say
from trainer.data.prepare.by_name.from_known import prepare_known
from trainer.data.prepare.by_name.known_corpora import PG19, known_corpus
from trainer.data.prepare.by_name.pg19 import prepare_pg19
from trainer.data.prepare.from_ids import prepare_ids
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.data.prepare.report import PrepareReport
from trainer.errors import InputError


@dataclass(frozen=True)
class Prepare(PrepareOptions):
    """Turn text into a corpus: your own, or one that the field knows by name."""

    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[NAME]")] = None
    """wikitext-103, wikitext-2, enwik8, text8 or ptb: downloaded, and made into what published
    results are of; goes with --out, --overwrite, --from, --cache and, for words, --workers alone.
    pg19: downloaded book by book, and made with the tokenizer that you name"""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """NAME: folder that has its files, packed or not; nothing is downloaded"""
    cache: Path | None = None
    """NAME: folder that keeps downloads; by default `downloads` beside --out"""

    def run(self) -> None:
        """Prepare, and say what was made and what to do next."""
        say(*self._prepared().lines())

    def _prepared(self) -> PrepareReport:
        values = {field.name: getattr(self, field.name) for field in fields(PrepareOptions)}
        options = PrepareOptions(**values)
        if self.name == PG19:
            return prepare_pg19(options, source=self.source, cache=self.cache)
        if self.name is not None:
            corpus = known_corpus(self.name)
            return prepare_known(corpus, options, source=self.source, cache=self.cache)
        if self.source or self.cache:
            raise InputError("--from and --cache: for a known corpus; give its name (see --help)")
        if options.ids is not None:
            return prepare_ids(options)
        stdin = None if sys.stdin is None else sys.stdin.buffer
        return prepare(options, stdin=stdin)


@dataclass(frozen=True)
class ShowCorpus:
    """Show what a corpus holds."""

    corpus: tyro.conf.Positional[Path]
    """folder made by `txl prepare`"""

    def run(self) -> None:
        """Print a line per split."""
        from trainer.data.corpus import open_corpus

        corpus = open_corpus(self.corpus)
        say(f"{corpus.path}: {corpus.vocabulary.kind}, vocabulary {corpus.vocabulary.size:,}")
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
        """Verify the corpus, and print that it is whole; bad input where it is not."""
        from trainer.data.corpus import verify_corpus

        verify_corpus(self.corpus)
        say(f"{self.corpus}: whole")
