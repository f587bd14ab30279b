"""What was prepared, and what to run next."""

from dataclasses import dataclass
from pathlib import Path

from trainer.config import load_recipe
from trainer.data.corpus_writer import SplitWriter
from trainer.data.vocabulary import Kind
from trainer.shell import command

# Below this a recipe of the paper repeats the text too often to be worth its hours.
_LARGE_TOKENS = 20_000_000


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """Counts of one split, as the corpus's header has them."""

    name: str
    n_tokens: int
    n_words: int
    n_characters: int
    n_documents: int
    n_unknown: int

    @classmethod
    def of(cls, writer: SplitWriter) -> "SplitReport":
        """The counts of a finished writer."""
        return cls(
            name=writer.name,
            n_tokens=writer.n_tokens,
            n_words=writer.n_words,
            n_characters=writer.n_characters,
            n_documents=writer.n_documents,
            n_unknown=writer.n_unknown,
        )

    @property
    def unknown_frac(self) -> float:
        """Share of the tokens that are `<unk>`."""
        return self.n_unknown / self.n_tokens

    @property
    def tokens_per_word(self) -> float:
        """Tokens per word, line ends counted as words."""
        return self.n_tokens / self.n_words

    def line(self) -> str:
        """One line for the user."""
        return (
            f"{self.name}: {self.n_tokens:,} tokens | {self.n_words:,} words and line ends | "
            f"{self.n_documents:,} documents | unknown {self.unknown_frac:.2%} | "
            f"{self.tokens_per_word:.3f} tokens per word"
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of `txl prepare`."""

    out: Path
    kind: Kind
    vocabulary_size: int
    splits: tuple[SplitReport, ...]
    told: tuple[str, ...]
    """What became of shares, what was left out and why, and other notes: a line each."""

    @property
    def recipe(self) -> str:
        """The packaged recipe that fits the corpus best."""
        train = next((split for split in self.splits if split.name == "train"), None)
        if train is None or train.n_tokens < _LARGE_TOKENS:
            return "quickstart"
        match self.kind:
            case "bytes":
                return "enwik8-base"
            case "characters":
                return "text8-base"
            case "words" if self.vocabulary_size > load_recipe("wt103-base").model.cutoffs[-1]:
                return "wt103-base"
            case _:
                return "quickstart"

    def lines(self) -> list[str]:
        """What the command prints."""
        lines = [split.line() for split in self.splits]
        lines.append(f"vocabulary: {self.vocabulary_size:,} {self.kind}")
        lines += self.told
        if any(split.name == "train" for split in self.splits):
            train = command("deepspeed", "launch/train.py", self.recipe, "--data", self.out)
            lines.append(f"next: {train}")
        return lines
