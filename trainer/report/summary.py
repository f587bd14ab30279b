"""Summing up a run directory in a few numbers, whether trained here or imported."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from trainer.config.strict import checked
from trainer.data.named import CORPUS_FILE, NamedCorpus, named_corpus
from trainer.errors import InputError
from trainer.outside import read_json
from trainer.report.history import History, read_history, recorded
from trainer.report.notes import noting
from trainer.track.measure import Measure, Text
from trainer.track.perplexity import perplexity
from trainer.track.record.records import METRICS_FILE, Record
from trainer.track.run_files.results import EvalResult, read_results
from trainer.track.run_files.status import STATUS_FILE, Status, read_status
from trainer.wording import human_seconds

SILENT_S = 900.0
"""A run whose heartbeat is older than this many seconds is reported as silent."""


IMPORTED_FILE = "imported.json"
_CURVE_WIDTH = 48


class ImportOrigin(BaseModel):
    """The origin of an imported run, as in `imported.json`."""

    model_config = ConfigDict(frozen=True, strict=True)

    layout: Text
    file: Text


class RunSummary(BaseModel):
    """The summary of a run; None means unknown or missing."""

    model_config = ConfigDict(frozen=True)

    run: str
    state: str
    reason: str | None = None
    """Why the run is in this state, as `status.json` says."""
    error: str | None = None
    """Why nothing of the run can be shown."""
    notes: tuple[str, ...] = ()
    """Files of the run that could not be read, and why."""
    imported: ImportOrigin | None = None
    corpus: str | None = None
    corpus_hash: str | None = None
    step: int = 0
    max_steps: int | None = None
    tokens: int | None = None
    """Tokens trained on up to the last record."""
    attempts: int = 0
    train_loss: float | None = None
    best_loss: float | None = None
    best_ppl: float | None = None
    best_step: int | None = None
    best_of: Measure | None = None
    """The measure of the best loss."""
    tokens_per_s: float | None = None
    """Over all steps of all attempts; see `trainer.track.throughput`."""
    mfu: float | None = None
    """Over all steps of all attempts; see `trainer.track.throughput`."""
    skipped_steps: int = 0
    curve: tuple[float, ...] = ()
    evals: tuple[EvalResult, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadRun:
    """All that a report reads of a run at once."""

    path: Path
    summary: RunSummary
    history: History
    status: Status | None = None


def read_run(run_dir: Path, *, now: float) -> ReadRun:
    """Return what a run directory holds, with notes on broken files; `now` is unix time.

    Raises:
        InputError: nothing can be shown: there is no run, or one of a newer version.
    """
    if not run_dir.is_dir():
        raise InputError("not a folder" if run_dir.exists() else "no such folder")
    notes: list[str] = []
    files = (STATUS_FILE, METRICS_FILE, IMPORTED_FILE, CORPUS_FILE)
    has = {name for name in files if (run_dir / name).exists()}
    status = noting(notes, lambda: read_status(run_dir))
    history = None
    if METRICS_FILE in has:
        history = noting(notes, lambda: read_history(run_dir / METRICS_FILE, tell=notes.append))
    imported = noting(notes, lambda: read_import_origin(run_dir)) if IMPORTED_FILE in has else None
    corpus = noting(notes, lambda: named_corpus(run_dir)) if CORPUS_FILE in has else None
    filed = read_results(run_dir)
    if status is None and history is None and imported is None and not filed.results:
        raise InputError(
            notes[0] if notes else f"not a run: neither {STATUS_FILE} nor {METRICS_FILE} is there"
        )
    history = history or recorded([])
    summary = RunSummary(
        run=run_dir.resolve().name,
        state=standing(status, imported, now=now),
        reason=status.reason if status else None,
        notes=(*notes, *filed.broken),
        imported=imported,
        evals=tuple(filed.results),
        **_corpus(corpus),
        **_numbers(history, status),
    )
    return ReadRun(path=run_dir, summary=summary, history=history, status=status)


def read_run_or_reason(run_dir: Path, *, now: float) -> ReadRun:
    """Return what `read_run` does; where it fails, a summary whose `error` says why."""
    try:
        return read_run(run_dir, now=now)
    except InputError as error:
        reason = str(error)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
    summary = RunSummary(run=run_dir.resolve().name, state="not shown", error=reason)
    return ReadRun(path=run_dir, summary=summary, history=recorded([]))


def read_import_origin(run_dir: Path) -> ImportOrigin:
    """Read the origin of an imported run.

    Raises:
        InputError: `imported.json` is missing or broken.
    """
    path = run_dir / IMPORTED_FILE
    return checked(ImportOrigin, read_json(path), where=str(path), fix="import it again")


def _corpus(corpus: NamedCorpus | None) -> dict[str, Any]:
    return {} if corpus is None else {"corpus": corpus.name, "corpus_hash": corpus.hash}


def _numbers(history: History, status: Status | None) -> dict[str, Any]:
    losses = history.train.metric("train/loss")[1]
    last: Record = history.last or {}
    step = status.step if status else last.get("step", 0)
    update = status.update if status else last.get("update", 0)
    result = (status.result or {}) if status else {}
    return {
        "step": step,
        "skipped_steps": max(0, step - update),
        "max_steps": status.max_steps if status else None,
        "tokens": last.get("tokens"),
        "attempts": max(status.attempt if status else 0, history.attempts),
        "train_loss": float(losses[-1]) if len(losses) else None,
        "tokens_per_s": _finite(result.get("throughput/tokens_per_s")),
        "mfu": _finite(result.get("throughput/mfu")),
        "curve": tuple(resample(losses.tolist(), _CURVE_WIDTH)),
        **best_validation(history),
    }


def _finite(value: Any) -> float | None:
    return value if isinstance(value, float | int) and math.isfinite(value) else None


def best_validation(history: History) -> dict[str, Any]:
    """Return the lowest validation loss of the newest one's measure, if records have measures."""
    places, losses = history.valid.metric("valid/loss")
    if not len(places):
        return {}
    keys = [_key(of) for of in history.valid_of]
    own = history.valid_of_index[places]
    comparable = np.isin(own, [i for i, key in enumerate(keys) if key == keys[own[-1]]])
    best = places[comparable][np.argmin(losses[comparable])]
    loss = float(history.valid.values["valid/loss"][best])
    of = history.valid_of[history.valid_of_index[best]]
    ppl = perplexity(loss)
    return {
        "best_loss": loss,
        "best_ppl": ppl if math.isfinite(ppl) else None,
        "best_step": int(history.valid.step[best]),
        "best_of": None if of is None else Measure.model_validate(of),
    }


def _key(of: dict[str, Any] | None) -> tuple[object, ...] | None:
    return None if of is None else Measure.model_validate(of).key


def standing(status: Status | None, imported: ImportOrigin | None, *, now: float) -> str:
    """Return how a run stands, in few words; `now` is unix time."""
    if status is None:
        return "imported" if imported else "unknown"
    if status.is_gone():
        return f"dead, was {status.state}: process {status.pid} is gone"
    silent_s = status.silent_s(now=now)
    if silent_s > SILENT_S:
        return f"{status.state}, silent for {human_seconds(silent_s)}"
    if status.state == "running" and status.eta_s is not None:
        return f"running, eta {human_seconds(status.eta_s)}"
    return status.state


def resample(values: Sequence[float], width: int) -> list[float]:
    """Return at most `width` means over equal parts of `values`; finite if the values are."""
    n = min(width, len(values))
    bounds = [i * len(values) // n for i in range(n + 1)] if n else []
    return [sum(value / (b - a) for value in values[a:b]) for a, b in pairwise(bounds)]
