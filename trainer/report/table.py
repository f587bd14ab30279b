"""Reports on runs: `txl report RUN…` reads run directories, even of runs in training."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from trainer.errors import InputError
from trainer.outside import printable
from trainer.report.summary import RunSummary, summarise
from trainer.track.measure import corpus_label
from trainer.track.results import by_text, table_rows
from trainer.track.tables import shown, text_table
from trainer.track.throughput import SCORING, TRAINING
from trainer.wording import counted, human_count


class RunsReport(NamedTuple):
    """The text of a report."""

    text: str
    n_shown: int
    """The number of directories of which anything could be shown."""


def report(
    run_dirs: Sequence[Path],
    *,
    as_json: bool = False,
    plot: Path | None = None,
    now: float | None = None,
) -> RunsReport:
    """Return a table of runs, their loss curves and the results of their evaluations.

    A directory without a run, or with one that cannot be read, gets a line that says why.

    Args:
        run_dirs: directories of runs.
        as_json: whether to return a JSON list with one object per directory instead.
        plot: a file to draw the loss curves into, which needs matplotlib.
        now: unix time by which a run is silent or alive; None is the present.

    Raises:
        InputError: matplotlib is missing, or `plot` cannot be drawn.
    """
    now = time.time() if now is None else now
    runs = [_summary(run_dir, now=now) for run_dir in run_dirs]
    n_shown = sum(run.error is None for run in runs)
    if plot is not None:
        _plot(runs, plot)
    if as_json:
        values = [run.model_dump(mode="json") for run in runs]
        return RunsReport(json.dumps(values, indent=2, allow_nan=False), n_shown)
    named = list(zip(_names(run_dirs, runs), runs, strict=True))
    whole = [(name, run) for name, run in named if run.error is None]
    parts = [_table(whole)] if whole else []
    parts += ["\n".join([name, *lines]) for name, run in whole if (lines := _details(run))]
    refused = [f"{name}: {printable(run.error)}" for name, run in named if run.error is not None]
    if refused:
        parts.append("\n".join([f"not shown: {counted(len(refused), 'folder')}", *refused]))
    return RunsReport("\n\n".join(parts), n_shown)


def _summary(run_dir: Path, *, now: float) -> RunSummary:
    try:
        return summarise(run_dir, now=now)
    except InputError as error:
        reason = str(error)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
    return RunSummary(run=run_dir.resolve().name, state="not shown", error=reason)


def _names(run_dirs: Sequence[Path], runs: Sequence[RunSummary]) -> list[str]:
    """Return a name for each run: its folder's, or its path if two folders have the same name."""
    n_called = Counter(run.run for run in runs)
    both = zip(run_dirs, runs, strict=True)
    return [printable(path if n_called[run.run] > 1 else run.run, most=200) for path, run in both]


def sparkline(values: Sequence[float]) -> str:
    """Return one block per value, higher for greater values."""
    if not values:
        return ""
    blocks = "▁▂▃▄▅▆▇█"
    halves = [value / 2 for value in values]  # differences of halves are finite
    low, span = min(halves), max(halves) - min(halves)
    scale = (len(blocks) - 1) / span if span > 0 else 0.0
    return "".join(blocks[min(len(blocks) - 1, round((half - low) * scale))] for half in halves)


def _table(runs: Sequence[tuple[str, RunSummary]]) -> str:
    head = ["run", "state", "step", "corpus", "train loss", "best valid loss", "ppl", "at step"]
    rows = [[*head, "tok/s", "skipped", "attempts"]]
    for name, run in runs:
        total = "" if run.max_steps is None else f"/{run.max_steps + run.skipped_steps:,}"
        rows.append(
            [
                name,
                run.state,
                f"{run.step:,}{total}",
                corpus_label(run.corpus, run.corpus_hash) if run.corpus else "-",
                shown(run.train_loss, ".4f"),
                shown(run.best_loss, ".4f"),
                shown(run.best_ppl, ".2f"),
                shown(run.best_step, ",d"),
                "-" if run.tokens_per_s is None else human_count(run.tokens_per_s),
                f"{run.skipped_steps:,}",
                f"{run.attempts:,}",
            ]
        )
    return f"losses are nats per token; tok/s: {TRAINING}\n\n{text_table(rows)}"


def _details(run: RunSummary) -> list[str]:
    lines = []
    if run.imported is not None:
        file, layout = (
            printable(part, most=200) for part in (run.imported.file, run.imported.layout)
        )
        lines.append(f"  imported from {file}, a checkpoint of {layout}")
    if run.curve:
        lines.append(f"  loss {run.curve[0]:.4f} {sparkline(run.curve)} {run.curve[-1]:.4f}")
    if run.best_loss is not None:
        lines.append(f"  best valid loss: {run.best_of or 'its records do not say what it is of'}")
    if run.evals:
        lines.append(f"  evaluations; tokens/s: {SCORING}")
    for text, results in by_text(run.evals).items():
        rows, notes = table_rows(results)
        block = [text, *text_table(rows).splitlines()]
        block += [f"[{i}] {printable(note)}" for i, note in enumerate(notes, start=1)]
        lines += [f"  {line}" for line in block]
    return lines + [f"  not read: {printable(note)}" for note in run.notes]


def _plot(runs: Sequence[RunSummary], file: Path) -> None:
    try:
        figures = import_module("matplotlib.figure")
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install matplotlib") from None
    figure = figures.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        label = printable(run.run, most=60).replace("$", r"\$")
        for part, points in run.points.items():
            if points:
                axes.plot(*zip(*points, strict=True), label=f"{label} {part}")
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    if axes.lines:
        axes.legend()
    try:
        figure.savefig(file)
    except ValueError as error:
        raise InputError(f"--plot {file} cannot be drawn: {printable(error, most=200)}") from None
