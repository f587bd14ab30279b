"""What became of runs: `txl report RUN…` reads run directories, live ones included."""

import json
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from trainer.console import human_count, human_seconds
from trainer.errors import InputError
from trainer.metrics import read_metrics
from trainer.records import METRICS_FILE, Record
from trainer.status import Status, read_status

SILENT_S = 900.0
"""A run whose heartbeat is older than this many seconds is reported as silent."""

_CURVE_WIDTH = 48
_RESULTS = ("loss", "ppl", "ppl_word", "bpc", "n_tokens")


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run in a few numbers; None is not known."""

    run: str
    state: str
    step: int
    max_steps: int | None
    attempts: int
    train_loss: float | None
    best_loss: float | None
    best_ppl: float | None
    best_step: int | None
    tokens_per_s: float | None
    skipped_steps: int
    curve: tuple[float, ...]
    evals: dict[str, dict[str, Any]]


def report(
    run_dirs: Sequence[Path],
    *,
    as_json: bool = False,
    plot: Path | None = None,
    now: float | None = None,
) -> str:
    """A table of runs, their loss curves and the results of their evaluations.

    Args:
        run_dirs: directories of runs.
        as_json: a JSON list with one object per run instead.
        plot: also draw the loss curves into this file; needs matplotlib.
        now: unix time that tells a silent run from a live one; None is the present.

    Raises:
        InputError: a directory holds no run, a file in it is unreadable, or matplotlib is missing.
    """
    now = time.time() if now is None else now
    runs = [summarise(run_dir, now=now) for run_dir in run_dirs]
    if plot is not None:
        _plot(run_dirs, plot)
    if as_json:
        return json.dumps([asdict(run) for run in runs], indent=2)
    details = ["\n".join(lines) for run in runs if (lines := _details(run))]
    return "\n\n".join([_table(runs), *details])


def summarise(run_dir: Path, *, now: float) -> RunSummary:
    """Read one run directory; `now` is unix time.

    Raises:
        InputError: it holds no run, or a file in it is unreadable.
    """
    status = read_status(run_dir)
    if status is None and not (run_dir / METRICS_FILE).is_file():
        if (run_dir / "imported.json").is_file():
            raise InputError(f"{run_dir} was imported and never trained here: see txl eval")
        raise InputError(f"{run_dir} is not a run: it has neither status.json nor {METRICS_FILE}")
    records = read_metrics(run_dir) if (run_dir / METRICS_FILE).is_file() else []
    train = [record for record in records if record["kind"] == "train"]
    losses = _column(train, "train/loss")
    rates = _column(train, "throughput/tokens_per_s")
    valid = [record for record in records if record.get("valid/loss") is not None]
    best = min(valid, key=lambda record: float(record["valid/loss"]), default=None)
    last = max(records, key=lambda record: int(record["step"]), default=None)
    step = status.step if status else last["step"] if last else 0
    update = status.update if status else last["update"] if last else 0
    return RunSummary(
        run=run_dir.resolve().name,
        state=_state(status, now=now),
        step=step,
        max_steps=status.max_steps if status else None,
        attempts=max([status.attempt if status else 0, *(r["attempt"] for r in records)]),
        train_loss=losses[-1] if losses else None,
        best_loss=best["valid/loss"] if best else None,
        best_ppl=best.get("valid/ppl", _ppl(best["valid/loss"])) if best else None,
        best_step=best["step"] if best else None,
        tokens_per_s=statistics.median(rates) if rates else None,
        skipped_steps=step - update,
        curve=tuple(_resample(losses, _CURVE_WIDTH)),
        evals=_evals(run_dir),
    )


def _state(status: Status | None, *, now: float) -> str:
    if status is None:
        return "unknown"
    silent_s = status.silent_s(now=now)
    if silent_s > SILENT_S:
        return f"{status.state}, silent for {human_seconds(silent_s)}"
    if status.state == "running" and status.eta_s is not None:
        return f"running, eta {human_seconds(status.eta_s)}"
    return status.state


def _column(records: Iterable[Record], name: str) -> list[float]:
    return [record[name] for record in records if record.get(name) is not None]


def _ppl(loss: float) -> float | None:
    return math.exp(loss) if loss < 700 else None


def _evals(run_dir: Path) -> dict[str, dict[str, Any]]:
    results = {}
    for path in sorted(run_dir.glob("evals/*.json")):
        try:
            result = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not readable as JSON ({error}); remove it") from None
        if isinstance(result, dict):
            results[path.stem] = {key: result[key] for key in _RESULTS if key in result}
    return results


def _resample(values: Sequence[float], width: int) -> list[float]:
    """At most `width` means over equal parts of `values`."""
    n = min(width, len(values))
    bounds = [i * len(values) // n for i in range(n + 1)] if n else []
    return [statistics.fmean(values[a:b]) for a, b in pairwise(bounds)]


def sparkline(values: Sequence[float]) -> str:
    """One block per value, from the least to the greatest."""
    if not values:
        return ""
    blocks = "▁▂▃▄▅▆▇█"
    low, high = min(values), max(values)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[round((value - low) * scale)] for value in values)


def _table(runs: Sequence[RunSummary]) -> str:
    head = ["run", "state", "step", "train loss", "best valid loss", "ppl", "at step"]
    rows = [[*head, "tok/s", "skipped", "attempts"]]
    for run in runs:
        total = "" if run.max_steps is None else f"/{run.max_steps + run.skipped_steps:,}"
        rows.append(
            [
                run.run,
                run.state,
                f"{run.step:,}{total}",
                _show(run.train_loss, ".4f"),
                _show(run.best_loss, ".4f"),
                _show(run.best_ppl, ".2f"),
                _show(run.best_step, ",d"),
                "-" if run.tokens_per_s is None else human_count(run.tokens_per_s),
                f"{run.skipped_steps:,}",
                f"{run.attempts:,}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _details(run: RunSummary) -> list[str]:
    lines = []
    if run.curve:
        lines.append(f"  loss {run.curve[0]:.4f} {sparkline(run.curve)} {run.curve[-1]:.4f}")
    for name, result in run.evals.items():
        cells = [
            f"{key} {value:,}" if isinstance(value, int) else f"{key} {value:.4f}"
            for key, value in result.items()
            if value is not None
        ]
        lines.append(f"  {name}: {' | '.join(cells)}")
    return [run.run, *lines] if lines else []


def _show(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _plot(run_dirs: Sequence[Path], file: Path) -> None:
    try:
        figures = import_module("matplotlib.figure")
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install matplotlib") from None
    figure = figures.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for run_dir in run_dirs:
        for part in ("train", "valid"):
            points = [
                (record["step"], record[f"{part}/loss"])
                for record in (read_metrics(run_dir) if (run_dir / METRICS_FILE).is_file() else [])
                if record.get(f"{part}/loss") is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), label=f"{run_dir.resolve().name} {part}")
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    if axes.lines:
        axes.legend()
    figure.savefig(file)
