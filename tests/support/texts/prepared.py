"""Corpora prepared from files, and read back."""

from pathlib import Path

from trainer.data.corpus import Corpus, open_corpus, verify_corpus
from trainer.data.prepare.from_text import PrepareOptions, prepare


def made(tmp_path: Path, **options: object) -> Corpus:
    prepare(PrepareOptions(out=tmp_path / "corpus", **options))  # type: ignore[arg-type]
    verify_corpus(tmp_path / "corpus")
    return open_corpus(tmp_path / "corpus")


def decoded(corpus: Corpus, name: str) -> str:
    return corpus.vocabulary.decode(corpus.splits[name].tokens.tolist())
