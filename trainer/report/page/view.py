"""The page's part about one run, as values for its template."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.outside import printable
from trainer.report.notes import noting
from trainer.report.page import curves
from trainer.report.page.memory_view import MemoryView, memory_view
from trainer.report.page.svg import Picture
from trainer.report.sentence import device_seconds, device_time, sentence, token_count
from trainer.report.settings import (
    RecipeDifferences,
    count_ranks,
    last_command,
    read_environment,
    read_settings,
    recipe_differences,
)
from trainer.report.summary import ReadRun
from trainer.track.measure import corpus_label
from trainer.track.record.sentences import event_sentence
from trainer.track.run_files.results import by_text, table_rows
from trainer.wording import human_count, human_seconds

#: The most events, samples and characters of a sample that a page shows.
MOST_EVENTS, MOST_SAMPLES, SAMPLE_CHARACTERS = 40, 12, 4000
#: The most characters of an event's sentence.
_SENTENCE = 600
#: The first columns of a table of evaluations.
_FIGURES = ("mem_len", "loss", "ppl", "ppl_word", "bpc")


@dataclass(frozen=True, kw_only=True)
class EvaluationTable:
    """The evaluations of one text."""

    text: str
    rows: list[list[str]]
    """The first holds the heads."""
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class SampleText:
    """A text that the run drew."""

    step: int
    text: str


@dataclass(kw_only=True)
class RunView:
    """The parts of the page about one run."""

    name: str
    anchor: str
    subject: str
    """The run's own name, with which its sentence begins."""
    predicate: str
    """The rest of the sentence."""
    facts: list[tuple[str, str]] = field(default_factory=list)
    best_of: str | None = None
    losses: list[tuple[str, Picture]] = field(default_factory=list)
    """Pictures by what they are drawn against."""
    drawn: frozenset[str] = frozenset()
    """The contents of these pictures, see `drawn_of`."""
    panels: list[Picture] = field(default_factory=list)
    marks: list[tuple[str, str, str, int]] = field(default_factory=list)
    """Name, colour, meaning and number of the events that are marked."""
    events: list[tuple[int, str, str]] = field(default_factory=list)
    """Step, name and sentence, the newest first."""
    n_events: int = 0
    recipe: RecipeDifferences | None = None
    command: str | None = None
    environment: list[tuple[str, str]] = field(default_factory=list)
    evaluations: list[EvaluationTable] = field(default_factory=list)
    memory: MemoryView | None = None
    samples: list[SampleText] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Parts that are left out, and why."""


def view(run: ReadRun, *, name: str, anchor: str, draws: bool, n_bins: int) -> RunView:
    """Return the view of a run.

    Args:
        run: what was read of it.
        name: what it is called on this page.
        anchor: where it stands on this page.
        draws: whether pictures can be drawn.
        n_bins: bins of a curve, see `decimate`.
    """
    notes = list(run.summary.notes)
    environment = noting(notes, lambda: read_environment(run.path)) or {}
    subject = run.summary.run
    predicate = sentence(run, environment=environment).removeprefix(subject)
    seen = RunView(name=name, anchor=anchor, subject=subject, predicate=predicate, notes=notes)
    if run.summary.error is not None:
        return seen
    seen.facts = _facts(run, environment)
    seen.best_of = None if run.summary.best_of is None else str(run.summary.best_of)
    if draws:
        _add_pictures(seen, run, n_bins=n_bins)
    _add_events(seen, run)
    settings = noting(notes, lambda: read_settings(run.path))
    if settings is not None:
        seen.recipe = recipe_differences(run.path, settings)
    seen.command = last_command(run.path)
    seen.environment = _environment(environment)
    for text, results in by_text(run.summary.evals).items():
        rows, absent = table_rows(results)
        seen.evaluations.append(EvaluationTable(text=text, rows=_figures_first(rows), notes=absent))
    seen.memory = memory_view(run, anchor=anchor, draws=draws, notes=notes)
    seen.samples = [
        SampleText(step=sample["step"], text=_cut(str(sample.get("sample/text") or "")))
        for sample in reversed(run.history.samples[-MOST_SAMPLES:])
    ]
    return seen


def _facts(run: ReadRun, environment: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the page's head says of a run, each with its name."""
    summary, history = run.summary, run.history
    begun = next((e for e in history.events if e["event"] in ("start", "resume")), {})
    seconds, ranks = device_seconds(run, environment), count_ranks(environment)
    known = {
        "state": summary.state,
        "step": f"{summary.step:,}"
        + (
            ""
            if summary.max_steps is None
            else f" of {summary.max_steps + summary.skipped_steps:,}"
        ),
        "tokens": summary.tokens and token_count(summary.tokens),
        "parameters": _count(begun.get("parameters")),
        "corpus": summary.corpus and corpus_label(summary.corpus, summary.corpus_hash),
        "precision": begun.get("precision"),
        "ranks": ranks and f"{ranks:,}",
        "speed": summary.tokens_per_s and f"{human_count(summary.tokens_per_s)} tokens/s",
        "MFU": summary.mfu and f"{summary.mfu:.1%}",
        "time": history.seconds and human_seconds(history.seconds),
        "work": seconds and device_time(seconds),
        "attempts": f"{summary.attempts:,}",
        "skipped updates": summary.skipped_steps and f"{summary.skipped_steps:,}",
    }
    return [(name, printable(value)) for name, value in known.items() if value]


def _count(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) and abs(value) < 1 << 62 else None


def _add_pictures(seen: RunView, run: ReadRun, *, n_bins: int) -> None:
    for axis, title in curves.AXES.items():
        picture = curves.loss_picture(run.history, axis=axis, name=seen.anchor, n_bins=n_bins)
        if picture is not None:
            seen.losses.append((title, picture))
    seen.drawn = curves.drawn_of(run.history)
    seen.panels = curves.panel_pictures(run.history, name=seen.anchor, n_bins=n_bins // 2)


def _add_events(seen: RunView, run: ReadRun) -> None:
    history = run.history
    for name in curves.marks_of(history):
        colour, line, meaning = curves.MARKS[name]
        kind = "tick" if line is None else ("dotted" if name == "spike" else "line")
        seen.marks.append((colour, kind, meaning, history.n_events[name]))
    seen.n_events = history.n_events.total()
    told = [event for event in history.events if event["event"] != "checkpoint"]
    seen.events = [
        (
            event["step"],
            printable(event["event"], most=80),
            event_sentence(event, most=_SENTENCE),
        )
        for event in reversed(told[-MOST_EVENTS:])
    ]


def _figures_first(rows: list[list[str]]) -> list[list[str]]:
    """Return a table of evaluations with its figures before what they are of."""
    first = [rows[0].index(name) for name in _FIGURES]
    order = [*first, *(place for place in range(len(rows[0])) if place not in first)]
    return [[row[place] for place in order] for row in rows]


def _environment(environment: dict[str, Any]) -> list[tuple[str, str]]:
    packages = environment.get("packages")
    flat = {**environment, "packages": None, "hosts": None}
    hosts = environment.get("hosts")
    if isinstance(hosts, list) and hosts:
        flat["hosts"] = ", ".join(sorted({str(host) for host in hosts[:64]}))
    if isinstance(packages, dict):
        flat |= packages
    return [(printable(n, most=80), printable(v, most=300)) for n, v in flat.items() if v]


def _cut(text: str) -> str:
    if len(text) <= SAMPLE_CHARACTERS:
        return text
    return f"{text[:SAMPLE_CHARACTERS]} … ({len(text) - SAMPLE_CHARACTERS:,} characters more)"


def overview_rows(runs: Sequence[ReadRun], names: Sequence[str]) -> list[list[str]]:
    """Return the table of several runs; the first row holds the heads."""
    rows = [["run", "state", "step", "train loss", "best valid loss", "ppl", "at step", "tokens/s"]]
    for run, name in zip(runs, names, strict=True):
        summary = run.summary
        numbers = (
            (summary.train_loss, ".4f"),
            (summary.best_loss, ".4f"),
            (summary.best_ppl, ".2f"),
            (summary.best_step, ",d"),
        )
        cells = ["-" if value is None else format(value, spec) for value, spec in numbers]
        speed = summary.tokens_per_s
        rows.append(
            [
                name,
                summary.error or summary.state,
                f"{summary.step:,}",
                *cells,
                "-" if speed is None else human_count(speed),
            ]
        )
    return rows
