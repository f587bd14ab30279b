"""Reporting the prepared corpus, and the command to run next."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.config.recipe import load_recipe
from trainer.data.comparable import absent_figures
from trainer.data.prepare.writer import SplitWriter
from trainer.data.vocabulary.files import Lost, Vocabulary
from trainer.shell import training
from trainer.wording import counted

# With fewer tokens a recipe of the paper repeats the text too often to be worth its hours.
_LARGE_TOKENS = 20_000_000
# Characters per word and line end; languages with spaces between words have five to nine.
_LONG_WORD_CHARACTERS = 12
# With more words a full softmax is most of a small model.
_LARGE_VOCABULARY = 20_000
# Symbols of a segment: about as much text as the words of a segment of the quick start.
_SYMBOLS = 128


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """Counts of one split, as in its header."""

    name: str
    n_tokens: int
    n_words: int
    n_characters: int
    n_documents: int
    n_unknown: int
    n_hidden: int
    n_blanks: int

    @classmethod
    def of(cls, writer: SplitWriter) -> "SplitReport":
        """Return the counts of a finished writer."""
        return cls(
            name=writer.name,
            n_tokens=writer.n_tokens,
            n_words=writer.n_words,
            n_characters=writer.n_characters,
            n_documents=writer.n_documents,
            n_unknown=writer.n_unknown,
            n_hidden=writer.n_hidden,
            n_blanks=writer.n_blanks,
        )

    @property
    def unknown_frac(self) -> float:
        """Return the share of the tokens that are `<unk>`."""
        return self.n_unknown / self.n_tokens

    @property
    def tokens_per_word(self) -> float:
        """Return the tokens per word; line ends count as words."""
        return self.n_tokens / max(1, self.n_words)

    @property
    def characters_per_word(self) -> float:
        """Return the characters per word; line ends count as words."""
        return self.n_characters / max(1, self.n_words)

    def absent(self, vocabulary: Vocabulary) -> Mapping[str, str]:
        """Return the figures that a loss on the split cannot give, with reasons."""
        return absent_figures(
            Lost(self.n_hidden, self.n_blanks),
            vocabulary,
            n_words=self.n_words,
            n_characters=self.n_characters,
        )

    def line(self) -> str:
        """Return a line for the user."""
        if not self.n_characters:  # ids that were given
            documents = counted(self.n_documents, "document")
            return f"{self.name}: {self.n_tokens:,} tokens | {documents}"
        lost = f" | {self._lost}" if self.n_hidden or self.n_blanks else ""
        return (
            f"{self.name}: {self.n_tokens:,} tokens | {self.n_words:,} words and line ends | "
            f"{counted(self.n_documents, 'document')} | unknown {self.unknown_frac:.2%} | "
            f"{self.tokens_per_word:.3f} tokens per word{lost}"
        )

    @property
    def _lost(self) -> str:
        share = (self.n_hidden + self.n_blanks) / max(1, self.n_characters)
        return (
            f"not in the ids: {self.n_hidden:,} characters and {self.n_blanks:,} of white space "
            f"({share:.2%})"
        )


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """The result of `txl prepare`."""

    out: Path
    vocabulary: Vocabulary
    splits: tuple[SplitReport, ...]
    remarks: tuple[str, ...]
    """Lines about the resulting shares, what was left out and why, and other notes."""

    @property
    def recipe(self) -> str:
        """Return the packaged recipe that fits the corpus best."""
        train = next((split for split in self.splits if split.name == "train"), None)
        if train is None or train.n_tokens < _LARGE_TOKENS:
            return "quickstart"
        match self.vocabulary.kind:
            case "bytes":
                return "enwik8-base"
            case "characters":
                return "text8-base"
            case "words" if self.vocabulary.size > load_recipe("wt103-base").model.cutoffs[-1]:
                return "wt103-base"
            case _:
                return "quickstart"

    def _flags(self) -> list[str]:
        """Return the flags that adapt the recipe to this vocabulary and length of text."""
        recipe, flags = load_recipe(self.recipe), []
        size = self.vocabulary.size
        if not recipe.model.cutoffs and size > _LARGE_VOCABULARY:
            flags += ["--model.cutoffs", str(size // 20), str(size // 5)]
        if self.recipe == "quickstart" and self.vocabulary.kind in ("bytes", "characters"):
            lengths = {"tgt-len": _SYMBOLS, "mem-len": 3 * _SYMBOLS}
            for part in ("train", "valid", "eval"):
                for name, length in lengths.items():
                    flags += [f"--{part}.{name}", str(length)]
        tgt_len = recipe.train.tgt_len if "--train.tgt-len" not in flags else _SYMBOLS
        train = next(split for split in self.splits if split.name == "train")
        fitting = max(1, (train.n_tokens - 1) // tgt_len)
        if fitting < recipe.train.train_batch_size:
            flags += ["--train.train-batch-size", str(fitting)]
        return flags

    def lines(self) -> list[str]:
        """Return the lines that the command prints."""
        lines = [split.line() for split in self.splits]
        lines.append(f"vocabulary: {self.vocabulary.size:,} {self.vocabulary.kind}")
        lines += self._warnings()
        lines += self.remarks
        if any(split.name == "train" for split in self.splits):
            lines.append(f"next: {training(self.recipe, '--data', self.out, *self._flags())}")
        return lines

    def _warnings(self) -> list[str]:
        """Return warnings about the counts, before any time is spent on a model."""
        warnings = []
        split = max(self.splits, key=lambda split: split.characters_per_word)
        if split.characters_per_word > _LONG_WORD_CHARACTERS:
            warning = (
                f"{split.name} has {split.characters_per_word:,.0f} characters per word: it seems "
                "to have no spaces between words, and ppl_word is of what stands between spaces"
            )
            if self.vocabulary.kind == "words":
                warning += "; --tokenizer bpe or characters makes tokens that occur again"
            warnings.append(warning)
        figures = {name for split in self.splits for name in split.absent(self.vocabulary)}
        if figures and not any(split.n_characters for split in self.splits):
            warnings.append(
                "figures are per token (loss, ppl): ids do not say what is a word or a character"
            )
        elif figures:
            warnings.append(
                f"the ids do not tell all of the text, so {' and '.join(sorted(figures))} will not "
                "be given"
            )
        return warnings
