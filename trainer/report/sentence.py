"""A run's result in one sentence, which is what most people want to know."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.report.settings import count_ranks
from trainer.report.summary import ReadRun, RunSummary
from trainer.track.measure import SHOWN_HASH, Measure
from trainer.track.perplexity import shown_perplexity
from trainer.wording import counted, human_seconds

#: The most measures of which a sentence names the best run.
_MOST_BEST = 3


def sentence(run: ReadRun, *, environment: Mapping[str, Any]) -> str:
    """Return what a run reached, after how much work, and how it stands; in one sentence."""
    summary = run.summary
    if summary.error is not None:
        return f"{summary.run} cannot be shown: {summary.error}"
    if summary.imported is not None:
        origin = f"{summary.imported.file}, a checkpoint of {summary.imported.layout}"
        return f"{summary.run} was imported from {origin}; {_measured(summary)}."
    return f"{summary.run} {_reached(run)}{_work(run, environment)}; {_standing(summary)}."


def sentence_of_all(runs: Sequence[ReadRun]) -> str:
    """Return in one sentence which of several runs is the best, as far as they compare."""
    shown = [run.summary for run in runs if run.summary.error is None]
    measured = [run for run in shown if run.best_loss is not None and run.best_of is not None]
    best: dict[tuple[object, ...], RunSummary] = {}
    for run in measured:
        key = run.best_of.key if run.best_of is not None else ()
        if key not in best or (run.best_loss or 0.0) < (best[key].best_loss or 0.0):
            best[key] = run
    n_lost = len(runs) - len(shown)
    lost = f"; {counted(n_lost, 'folder')} cannot be shown" if n_lost else ""
    if not 1 <= len(best) <= _MOST_BEST:
        why = "they measure too many different things" if best else "none says what it measures"
        return f"Of {counted(len(shown), 'run')} none is called the best, since {why}{lost}."
    manners = _told_apart([run.best_of for run in best.values() if run.best_of is not None])
    reached = [
        f"{run.run} has the lowest loss on {_text_of(run)}{manner}, {run.best_loss:.4f} nats per "
        f"token ({_figures(run)}) at step {run.best_step:,}"
        for run, manner in zip(best.values(), manners, strict=True)
    ]
    return f"Of {counted(len(shown), 'run')} {', and '.join(reached)}{lost}."


def _told_apart(measures: Sequence[Measure]) -> list[str]:
    """Return for each measure in what it differs from the others: `` with mem_len 16``."""
    cells = [
        {
            **measure.settings.cells(),
            "precision": measure.precision or "?",
            "counted": measure.rule or "?",
            "text": (measure.split_hash or "?")[:SHOWN_HASH],
        }
        for measure in measures
    ]
    differing = [name for name in cells[0] if len({its[name] for its in cells}) > 1]
    return [
        f" with {', '.join(f'{name} {its[name]}' for name in differing)}" if differing else ""
        for its in cells
    ]


def device_seconds(run: ReadRun, environment: Mapping[str, Any]) -> float | None:
    """Return the seconds of all attempts times the ranks of the last; None if unknown."""
    ranks = count_ranks(environment)
    return None if ranks is None or not run.history.seconds else ranks * run.history.seconds


def device_time(seconds: float) -> str:
    """Return device hours, or minutes if there are few: ``22 device hours``."""
    if seconds < 3600:
        return f"{seconds / 60:.1f} device minutes"
    hours = seconds / 3600
    return f"{hours:.1f} device hours" if hours < 10 else f"{hours:,.0f} device hours"


def token_count(n_tokens: int) -> str:
    """Return a number of tokens: ``614,016 tokens``, ``1.80e9 tokens``."""
    if n_tokens < 10**7:
        return counted(n_tokens, "token")
    mantissa, exponent = f"{n_tokens:.2e}".split("e")
    return f"{mantissa}e{int(exponent)} tokens"


def _reached(run: ReadRun) -> str:
    summary = run.summary
    if summary.best_loss is None:
        at = f"is at step {summary.step:,}{_total(summary)}"
        if summary.train_loss is None:
            return f"{at} without a record of its loss"
        return f"{at} with a training loss of {summary.train_loss:.4f}, and has no validation yet"
    step = summary.best_step or 0
    if step == summary.step:
        after = f"after {step:,} steps"
    else:
        after = f"at step {step:,} of {summary.step:,}"
    return f"reached {_figures(summary, run)} on {_text_of(summary)} {after}"


def _total(summary: RunSummary) -> str:
    return "" if summary.max_steps is None else f" of {summary.max_steps + summary.skipped_steps:,}"


def _figures(summary: RunSummary, run: ReadRun | None = None) -> str:
    """Return perplexity and, where a validation has them, bits per character."""
    ppl = "a perplexity beyond numbers"
    if summary.best_ppl is not None:
        ppl = f"{shown_perplexity(summary.best_ppl)} ppl"
    if run is None:
        return ppl
    valid = run.history.valid
    bpc = valid.values["valid/bpc"][valid.step == summary.best_step]
    return f"{ppl} ({bpc[0]:.4f} bpc)" if len(bpc) and bpc[0] == bpc[0] else ppl


def _text_of(summary: RunSummary) -> str:
    of = summary.best_of
    if of is None or of.split is None:
        return "valid"
    return f"{of.split} of {of.corpus}" if of.corpus else of.split


def _work(run: ReadRun, environment: Mapping[str, Any]) -> str:
    parts = [] if run.summary.tokens is None else [token_count(run.summary.tokens)]
    if (seconds := device_seconds(run, environment)) is not None:
        parts.append(device_time(seconds))
    return f" ({', '.join(parts)})" if parts else ""


def _standing(summary: RunSummary) -> str:
    why = f": {summary.reason}" if summary.reason else ""
    kind, _, rest = summary.state.partition(", ")
    if summary.state == "done":
        return f"it is finished{why}"
    if kind == "requeue":
        return f"it was interrupted and waits to be run again{why}"
    if kind == "stopped":
        return f"it was stopped by its user{why}"
    if kind == "failed":
        return f"it failed{why}"
    if kind == "running" and rest.startswith("eta"):
        return f"it is running and ends in about {rest.removeprefix('eta ')}"
    if kind == "unknown":
        return "how it stands is not known"
    return f"it is {summary.state}{why}"


def _measured(summary: RunSummary) -> str:
    known = [result for result in summary.evals if result.ppl is not None and not result.method]
    if not known:
        return "nothing was evaluated yet"
    best = min(known, key=lambda result: result.ppl or 0.0)
    return f"`txl eval` measured {shown_perplexity(best.ppl or 0.0)} ppl on {best.source}"


def silence(seconds: float) -> str:
    """Return how long a heartbeat has been missing."""
    return human_seconds(max(0.0, seconds))
