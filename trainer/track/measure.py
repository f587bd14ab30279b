"""Measures of losses: the text, and how it was read and counted. Only equal measures compare."""

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from trainer.outside import printable
from trainer.track.method import Method

Rule = Literal["every token", "as fairseq"]

#: What each rule counts, as files and tables say it.
RULES: dict[Rule, str] = {
    "every token": "every token but the first of the split, each exactly once",
    "as fairseq": (
        "as fairseq: without the tokens at multiples of tgt_len, which its chunks begin with and "
        "never predict; memory begins as zeros that are attended"
    ),
}

#: Characters of a hash that a table shows beside the name.
SHOWN_HASH = 12

Count = Annotated[int, Field(ge=0, lt=1 << 62, strict=True)]
Text = Annotated[str, Field(max_length=4096)]


def _last_part(path: Any) -> Any:
    return PurePath(path).name if isinstance(path, str) else path


class Lengths(BaseModel):
    """The lengths with which text is scored, as in `ScoringConfig`; a missing one is unknown."""

    model_config = ConfigDict(frozen=True, strict=True)

    tgt_len: Count | None = None
    mem_len: Count | None = None
    clamp_len: Count | None = None
    same_length: bool | None = None
    warm: Text | None = None
    batch_size: Count | None = Field(None, description="rows; changes no result")

    @property
    def key(self) -> tuple[object, ...]:
        """Return everything that changes a result."""
        return self.tgt_len, self.mem_len, self.clamp_len, self.same_length, self.warm

    def cells(self) -> dict[str, str]:
        """Return each length by name as a table shows it: ``?`` is unknown, ``-`` is none."""
        names = ("tgt_len", "mem_len", "clamp_len", "same_length", "warm")
        return {name: self._cell(name) for name in names}

    def _cell(self, name: str) -> str:
        value = getattr(self, name)
        if value is None:
            return "-" if name in self.model_fields_set and name == "clamp_len" else "?"
        return ("yes" if value else "no") if isinstance(value, bool) else str(value)


class Measure(BaseModel):
    """The text of a loss, and how it was read and counted; None is unknown."""

    model_config = ConfigDict(frozen=True, strict=True)

    corpus: Annotated[Text | None, BeforeValidator(_last_part)] = Field(
        None, description="name of the corpus's folder"
    )
    corpus_hash: Text | None = Field(None, description="of the vocabulary and every split")
    split: Text | None = Field(None, description="train, valid or test")
    split_hash: Text | None = Field(None, description="of the vocabulary, the ids and documents")
    precision: Text | None = Field(
        None, description="fp32, bf16, fp16, bf16_autocast or fp16_autocast"
    )
    rule: Rule | None = Field(None, description="which tokens are counted")
    settings: Lengths = Field(Lengths(), description="lengths with which text is scored")
    method: Method | None = Field(
        None, description="how reading improves as it reads; None: the weights alone predict"
    )

    @property
    def key(self) -> tuple[object, ...]:
        """Return all that a loss depends on besides the weights: equal keys may be compared."""
        improving = () if self.method is None else (self.method.key,)
        lengths = self.settings.key
        return self.split, self.split_hash, self.precision, self.rule, *lengths, *improving

    @property
    def source(self) -> str:
        """Return split and corpus, such as ``test of wt103 (1f2e3d4c5b6a)``."""
        return f"{_known(self.split)} of {corpus_label(self.corpus, self.corpus_hash)}"

    def __str__(self) -> str:
        """Return the whole measure in one line."""
        lengths = ", ".join(f"{name} {cell}" for name, cell in self.settings.cells().items())
        method = "" if self.method is None else f", {self.method}"
        return f"{self.source}: {_known(self.rule)}, {lengths}, {_known(self.precision)}{method}"


def corpus_label(name: str | None, corpus_hash: str | None) -> str:
    """Return name and hash of a corpus, ``wt103 (1f2e3d4c5b6a)``; ``?`` is unknown."""
    return f"{_known(name)} ({_known(corpus_hash and corpus_hash[:SHOWN_HASH])})"


def _known(value: str | None) -> str:
    return printable(value, most=80) if value else "?"
