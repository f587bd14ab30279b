"""The messages of a run that a terminal shows in its own way: a record's line, and a sample.

A log file has each of them as one whole line. A terminal is narrower: see `Fitting`.
"""

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

from rich.console import Console as Terminal
from rich.text import Text

from trainer.track.perplexity import shown_perplexity
from trainer.wording import LOGGED_CHARACTERS, human_count, human_seconds, printable_lines

#: Cells of a training step that give way on a narrow terminal, the first of them first. The
#: progress bar also shows the ETA, and `metrics.jsonl` has the other numbers.
GIVE_WAY = (
    "memory/peak_gib",
    "throughput/mfu",
    "optim/grad_norm",
    "eta",
    "optim/lr",
    "throughput/tokens_per_s",
)

_JOINED = "\u00a0"


@runtime_checkable
class Fitting(Protocol):
    """A message whose `str` is its whole line, and which knows its lines for a width."""

    def fitting(self, width: int) -> list[str]:
        """Return the lines of the message, none longer than `width`."""
        ...


@dataclass(frozen=True)
class StepLine:
    """A record's line: cells in a fixed order, by the name of what each shows."""

    cells: Mapping[str, str]
    give_way: tuple[str, ...] = ()
    """Cells that are left out until the line fits; one that never fits is wrapped."""

    def __str__(self) -> str:
        return " | ".join(self.cells.values())

    def fitting(self, width: int) -> list[str]:
        """Return the line without the cells that give way; wrapped if it still does not fit."""
        cells = dict(self.cells)
        for name in self.give_way:
            if len(" | ".join(cells.values())) <= width:
                break
            cells.pop(name, None)
        whole = (cell.replace(" ", _JOINED) for cell in cells.values())  # a cell is not cut
        return [line.replace(_JOINED, " ") for line in wrapped(" | ".join(whole), width)]


@dataclass(frozen=True)
class SampleText:
    """A text that the model wrote."""

    step: int
    text: str

    def __str__(self) -> str:
        return f"sample at step {self.step:,}: {self.text}"

    def fitting(self, width: int) -> list[str]:
        """Return a head, then the text behind bars, its unseen signs escaped.

        Its line ends stay; several empty lines are shown as one.
        """
        text = self.text
        if len(text) > LOGGED_CHARACTERS:
            text = f"{text[:LOGGED_CHARACTERS]}… ({len(self.text):,} characters)"
        terminal, room = Terminal(width=width), max(2, width - 2)
        shown = printable_lines(text).expandtabs(4).split("\n")
        parts = [part.plain.rstrip() for line in shown for part in Text(line).wrap(terminal, room)]
        kept = [part for before, part in pairwise(["", *parts]) if part or before]
        return [
            *wrapped(f"sample at step {self.step:,}", width),
            *(f"| {part}".rstrip() for part in kept),
        ]


def wrapped(line: str, width: int) -> list[str]:
    """Return `line` cut at blanks into lines of `width`; a longer word stays whole for a copy."""
    cut = textwrap.wrap(line, max(1, width), break_long_words=False, break_on_hyphens=False)
    return cut or [""]


def step_line(
    values: Mapping[str, Any],
    *,
    step: int,
    max_steps: int,
    part: str = "train",
    eta_s: float | None = None,
) -> StepLine:
    """Return a line for people, always in the same order, without metrics that are missing.

    Args:
        values: metrics by name, such as ``train/loss``.
        step: the step of the metrics.
        max_steps: the step at which the run ends.
        part: ``train``, or ``valid``, which the line then names.
        eta_s: seconds until the end; None is left out.
    """
    cells = {"step": f"step {step:,}/{max_steps:,}"}
    if part != "train":
        cells["part"] = part
    for pattern, cell in _CELLS.items():
        name = pattern.format(part=part)
        value = values.get(name)
        if value is not None:
            cells[name] = cell(value)
    best = values.get("valid/best_loss")
    if best is not None:
        is_best = best == values.get("valid/loss")
        cells["best"] = "new best" if is_best else f"best {best:.4f}"
    if eta_s is not None:
        cells["eta"] = f"eta {human_seconds(eta_s)}"
    if part == "train":
        return StepLine(cells, GIVE_WAY)
    by_token, by_word = (cells.get(f"{part}/{name}", "") for name in ("ppl", "ppl_word"))
    repeats = by_word.removeprefix("ppl_word") == by_token.removeprefix("ppl")
    return StepLine(cells, (f"{part}/ppl_word",) if repeats else ())


_CELLS: dict[str, Callable[[float], str]] = {
    "{part}/loss": "loss {:.4f}".format,
    "{part}/ppl": lambda ppl: f"ppl {shown_perplexity(ppl)}",
    "{part}/ppl_word": lambda ppl: f"ppl_word {shown_perplexity(ppl)}",
    "{part}/bpc": "bpc {:.4f}".format,
    "optim/lr": "lr {:.2e}".format,
    "optim/grad_norm": "grad_norm {:.2f}".format,
    "throughput/tokens_per_s": lambda rate: f"{human_count(rate)} tok/s",
    "throughput/mfu": "mfu {:.1%}".format,
    "memory/peak_gib": "mem {:.1f} GiB".format,
}
