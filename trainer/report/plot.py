"""A picture of loss curves, drawn by matplotlib into a file of any kind that it knows."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from trainer.errors import InputError
from trainer.outside import printable
from trainer.report.summary import ReadRun


def plot_losses(runs: Sequence[ReadRun], file: Path) -> None:
    """Draw the loss curves of runs by step into `file`, whose ending says the kind of picture.

    Raises:
        InputError: matplotlib is missing, or `file` cannot be drawn.
    """
    try:
        figures = import_module("matplotlib.figure")
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install matplotlib") from None
    figure = figures.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        label = printable(run.summary.run, most=60).replace("$", r"\$")
        for part, columns in (("train", run.history.train), ("valid", run.history.valid)):
            places, losses = columns.metric(f"{part}/loss")
            if len(places):
                axes.plot(columns.step[places], losses, label=f"{label} {part}")
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    if axes.lines:
        axes.legend()
    try:
        figure.savefig(file)
    except ValueError as error:
        raise InputError(f"--plot {file} cannot be drawn: {printable(error, most=200)}") from None
