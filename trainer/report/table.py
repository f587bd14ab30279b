"""The table of runs, for a terminal: where each stands, its curve and its evaluations."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from trainer.outside import printable
from trainer.report.summary import ReadRun, RunSummary
from trainer.track.measure import corpus_label
from trainer.track.perplexity import shown_perplexity
from trainer.track.run_files.results import by_text, table_rows
from trainer.track.tables import shown, text_table
from trainer.track.throughput import MFU, SCORING, TRAINING
from trainer.wording import counted, human_count


class RunsReport(NamedTuple):
    """The text of a report."""

    text: str
    n_shown: int
    """The number of directories of which anything could be shown."""


def report(runs: Sequence[ReadRun]) -> RunsReport:
    """Return a table of runs, their loss curves and the results of their evaluations.

    A directory without a run, or with one that cannot be read, gets a line that says why.
    """
    whole, refused = [], []
    for name, run in zip(names_of(runs), (run.summary for run in runs), strict=True):
        if run.error is None:
            whole.append((name, run))
        else:
            refused.append(f"{name}: {printable(run.error)}")
    parts = [_table(whole)] if whole else []
    parts += ["\n".join([name, *lines]) for name, run in whole if (lines := _details(run))]
    if refused:
        parts.append("\n".join([f"not shown: {counted(len(refused), 'folder')}", *refused]))
    return RunsReport("\n\n".join(parts), len(whole))


def report_json(runs: Sequence[ReadRun]) -> RunsReport:
    """Return the summaries of runs as a JSON list with one object per directory."""
    values = [run.summary.model_dump(mode="json") for run in runs]
    n_shown = sum(run.summary.error is None for run in runs)
    return RunsReport(json.dumps(values, indent=2, allow_nan=False), n_shown)


def names_of(runs: Sequence[ReadRun]) -> list[str]:
    """Return a name for each run: its folder's, or its path if two folders have the same name."""
    n_called = Counter(run.summary.run for run in runs)
    return [
        printable(run.path if n_called[run.summary.run] > 1 else run.summary.run, most=200)
        for run in runs
    ]


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
    """Return a table with a row per run, and what its columns mean."""
    head = ["run", "state", "step", "corpus", "train loss", "best valid loss", "ppl", "at step"]
    has_mfu = any(run.mfu is not None for _, run in runs)
    rows = [[*head, "tok/s", *(["mfu"] * has_mfu), "skipped", "attempts"]]
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
                "-" if run.best_ppl is None else shown_perplexity(run.best_ppl),
                shown(run.best_step, ",d"),
                "-" if run.tokens_per_s is None else human_count(run.tokens_per_s),
                *([shown(run.mfu, ".1%")] * has_mfu),
                f"{run.skipped_steps:,}",
                f"{run.attempts:,}",
            ]
        )
    meaning = f"; mfu: {MFU}" if has_mfu else ""
    return f"losses are nats per token; tok/s: {TRAINING}{meaning}\n\n{text_table(rows)}"


def _details(run: RunSummary) -> list[str]:
    lines = [f"  {run.state}: {printable(run.reason)}"] if run.reason else []
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
