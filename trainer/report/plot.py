"""Pictures of runs, drawn by matplotlib into a file of any kind that it knows."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.outside import printable
from trainer.report.positions import curves_of
from trainer.report.summary import ReadRun
from trainer.wording import human_count


def plot_losses(runs: Sequence[ReadRun], file: Path) -> None:
    """Draw the loss curves of runs by step into `file`, whose ending says the kind of picture.

    Raises:
        InputError: matplotlib is missing, or `file` cannot be drawn.
    """

    def fill(axes: Any) -> None:
        for run in runs:
            for part, columns in (("train", run.history.train), ("valid", run.history.valid)):
                places, losses = columns.metric(f"{part}/loss")
                if len(places):
                    axes.plot(columns.step[places], losses, label=f"{_name(run)} {part}")
        axes.set(xlabel="step", ylabel="loss (nats per token)")

    _draw(fill, file, flag="--plot")


def plot_positions(runs: Sequence[ReadRun], file: Path) -> None:
    """Draw the loss by position of runs' evaluations into `file`; see `txl eval --by-position`.

    Raises:
        InputError: matplotlib is missing, no run has such an evaluation, or `file` cannot be drawn.
    """
    drawn = [(run, curve) for run in runs for curve in curves_of(run)]
    if not drawn:
        raise InputError(
            f"--plot-positions {file}: no loss by position is filed: run `txl eval RUN "
            "--by-position`"
        )

    def fill(axes: Any) -> None:
        for run, curve in drawn:
            axes.plot(curve.places, curve.losses, "o-", label=f"{_name(run)} {curve.label}")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, place: human_count(value))
        axes.set(xlabel="tokens read since memory was empty", ylabel="loss (nats per token)")

    _draw(fill, file, flag="--plot-positions")


def _name(run: ReadRun) -> str:
    return printable(run.summary.run, most=60).replace("$", r"\$")


def _draw(fill: Callable[[Any], None], file: Path, *, flag: str) -> None:
    try:
        figures = import_module("matplotlib.figure")
    except ImportError:
        raise InputError(f"{flag} needs matplotlib: pip install matplotlib") from None
    figure = figures.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    fill(axes)
    if axes.lines:
        axes.legend()
    try:
        figure.savefig(file)
    except ValueError as error:
        raise InputError(f"{flag} {file} cannot be drawn: {printable(error, most=200)}") from None
