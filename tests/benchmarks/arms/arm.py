"""Arms of a comparison: what `txl train` is given, a size, and runs of it at some rate."""

import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from measured.trained import trained

from trainer.budget.check import count_weights
from trainer.config.command_line.arguments import parse_show
from trainer.config.experiment import ExperimentConfig
from trainer.data.corpus import open_corpus
from trainer.errors import InputError

#: Flags of Transformer-XL's sizes, by about how many parameters it has with 2,048 subwords.
SIZES: dict[str, dict[str, int]] = {
    "0.5M": {"n-layer": 3, "d-model": 96, "n-head": 3, "d-head": 32, "d-inner": 288},
    "2M": {"n-layer": 4, "d-model": 192, "n-head": 6, "d-head": 32, "d-inner": 576},
    "own": {},
}


class Trial(NamedTuple):
    """One run of an arm."""

    rate: float
    n_tokens: int
    seed: int


class Run(NamedTuple):
    """What one run gave."""

    trial: Trial
    loss: float
    """Nats per token of the last validation."""
    cpu_s: float
    """Processor seconds, start and validation included."""


class Mean(NamedTuple):
    """The runs of an arm that differ by their seeds alone."""

    losses: tuple[float, ...]
    cpu_s: float

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Self:
        """Return the runs' losses, and the median of their processor seconds."""
        return cls(tuple(run.loss for run in runs), statistics.median(run.cpu_s for run in runs))

    @property
    def loss(self) -> float:
        """Return the mean of the losses."""
        return statistics.fmean(self.losses)


@dataclass(frozen=True)
class Arm:
    """A recipe with flags, at one size, on one corpus."""

    name: str
    words: tuple[str, ...]
    """What is written after `txl train`: a recipe, and flags."""
    size: str
    corpus: Path
    experiment: ExperimentConfig
    """The settings, but for rate, seed and length."""

    @classmethod
    def read(cls, told: str, *, size: str, corpus: Path) -> Self:
        """Return the arm of `NAME=RECIPE FLAGS`, or of `RECIPE FLAGS`, called as its recipe.

        Raises:
            SystemExit: there is no recipe, or a flag or a value is not one of a training.
        """
        first, is_named, rest = told.partition("=")
        name, text = (first, rest) if is_named and " " not in first else ("", told)
        recipe, *flags = shlex.split(text) or ["-"]
        if recipe.startswith("-"):
            raise SystemExit(
                f"{told!r}: begin with a recipe, as post='quickstart --model.norm post'"
            )
        sizes = [f"--model.{flag}={value}" for flag, value in SIZES[size].items()]
        words = (recipe, *sizes, *flags)
        try:
            experiment = parse_show(words).experiment
        except InputError as error:
            raise SystemExit(f"{told!r}: {error}") from None
        return cls(name or Path(recipe).stem, words, size, corpus, experiment)

    @property
    def n_parameters(self) -> int:
        """Return the number of weights."""
        n_words = open_corpus(self.corpus).vocabulary.size
        return count_weights(self.experiment.model, n_words).total

    def run(self, trial: Trial, out: Path) -> Run:
        """Train and validate once, with the share of warm-up that the recipe has.

        A run that `out` has is not repeated.
        """
        train, optim = self.experiment.train, self.experiment.optim
        n_updates = trial.n_tokens // train.tokens_per_step
        found = trained(
            out / self.name / f"{self.size}-{trial.n_tokens}-{trial.rate:.3g}-{trial.seed}",
            self.corpus,
            *self.words,
            seed=trial.seed,
            n_updates=n_updates,
            flags={
                "--optim.lr": f"{trial.rate:.3g}",
                "--optim.warmup-steps": optim.warmup_steps * n_updates // train.max_steps,
            },
        )
        return Run(trial, found["loss"], found["cpu_s"])
