"""Summing up a run directory in a few numbers, whether trained here or imported."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from trainer.config.strict import checked
from trainer.data.named import CORPUS_FILE, NamedCorpus, named_corpus
from trainer.errors import InputError
from trainer.outside import read_json
from trainer.track.measure import Measure, Text
from trainer.track.metrics import read_metrics
from trainer.track.perplexity import perplexity
from trainer.track.records import METRICS_FILE, Record
from trainer.track.results import EvalResult, read_results
from trainer.track.status import STATUS_FILE, Status, read_status
from trainer.wording import human_seconds

SILENT_S = 900.0
"""A run whose heartbeat is older than this many seconds is reported as silent."""

_Read = TypeVar("_Read")

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
    error: str | None = None
    """Why nothing of the run can be shown."""
    notes: tuple[str, ...] = ()
    """Files of the run that could not be read, and why."""
    imported: ImportOrigin | None = None
    corpus: str | None = None
    corpus_hash: str | None = None
    step: int = 0
    max_steps: int | None = None
    attempts: int = 0
    train_loss: float | None = None
    best_loss: float | None = None
    best_ppl: float | None = None
    best_step: int | None = None
    best_of: Measure | None = None
    """The measure of the best loss."""
    tokens_per_s: float | None = None
    """Over all steps of all attempts; see `trainer.track.throughput`."""
    skipped_steps: int = 0
    curve: tuple[float, ...] = ()
    evals: tuple[EvalResult, ...] = ()
    points: dict[str, tuple[tuple[int, float], ...]] = Field({}, exclude=True)
    """Step and loss of every record, for ``train`` and for ``valid``."""


def summarise(run_dir: Path, *, now: float) -> RunSummary:
    """Return the summary of a run directory, with notes on broken files; `now` is unix time.

    Raises:
        InputError: nothing can be shown: there is no run, or one of a newer version.
    """
    if not run_dir.is_dir():
        raise InputError("not a folder" if run_dir.exists() else "no such folder")
    notes: list[str] = []
    files = (STATUS_FILE, METRICS_FILE, IMPORTED_FILE, CORPUS_FILE)
    has = {name for name in files if (run_dir / name).exists()}
    status = _noting(notes, lambda: read_status(run_dir))
    records = _noting(notes, lambda: read_metrics(run_dir)) if METRICS_FILE in has else None
    imported = _noting(notes, lambda: read_import_origin(run_dir)) if IMPORTED_FILE in has else None
    corpus = _noting(notes, lambda: named_corpus(run_dir)) if CORPUS_FILE in has else None
    filed = read_results(run_dir)
    if status is None and records is None and imported is None and not filed.results:
        raise InputError(
            notes[0] if notes else f"not a run: neither {STATUS_FILE} nor {METRICS_FILE} is there"
        )
    return RunSummary(
        run=run_dir.resolve().name,
        state=_state(status, imported, now=now),
        notes=(*notes, *filed.broken),
        imported=imported,
        evals=tuple(filed.results),
        **_corpus(corpus),
        **_numbers(records or [], status),
    )


def _noting(notes: list[str], read: Callable[[], _Read]) -> _Read | None:
    """Return the value of `read`; if it fails, add a note and return None."""
    try:
        return read()
    except InputError as error:
        notes.append(str(error))
        return None


def read_import_origin(run_dir: Path) -> ImportOrigin:
    """Read the origin of an imported run.

    Raises:
        InputError: `imported.json` is missing or broken.
    """
    path = run_dir / IMPORTED_FILE
    return checked(ImportOrigin, read_json(path), where=str(path), fix="import it again")


def _corpus(corpus: NamedCorpus | None) -> dict[str, Any]:
    return {} if corpus is None else {"corpus": corpus.name, "corpus_hash": corpus.hash}


def _numbers(records: list[Record], status: Status | None) -> dict[str, Any]:
    points = {part: _points(records, part) for part in ("train", "valid")}
    losses = [loss for _, loss in points["train"]]
    last: Record = max(records, key=lambda record: int(record["step"]), default={})
    step = status.step if status else last.get("step", 0)
    update = status.update if status else last.get("update", 0)
    rate = (status.result or {}).get("throughput/tokens_per_s") if status else None
    attempts = [record["attempt"] for record in records]
    return {
        "step": step,
        "skipped_steps": max(0, step - update),
        "max_steps": status.max_steps if status else None,
        "attempts": max([status.attempt if status else 0, *attempts]),
        "train_loss": losses[-1] if losses else None,
        "tokens_per_s": rate if isinstance(rate, float | int) and math.isfinite(rate) else None,
        "curve": tuple(resample(losses, _CURVE_WIDTH)),
        "points": points,
        **_best(records),
    }


def _best(records: Iterable[Record]) -> dict[str, Any]:
    """Return the lowest validation loss of the newest one's measure, if records have measures."""
    valid = [r for r in records if r["kind"] == "valid" and r.get("valid/loss") is not None]
    newest_of = valid[-1].get("of") if valid else None
    comparable = [record for record in valid if _key(record.get("of")) == _key(newest_of)]
    best = min(comparable, key=lambda record: float(record["valid/loss"]), default=None)
    if best is None:
        return {}
    loss, of = float(best["valid/loss"]), best.get("of")
    ppl = perplexity(loss)
    return {
        "best_loss": loss,
        "best_ppl": ppl if math.isfinite(ppl) else None,
        "best_step": best["step"],
        "best_of": None if of is None else Measure.model_validate(of),
    }


def _key(of: dict[str, Any] | None) -> tuple[object, ...] | None:
    return None if of is None else Measure.model_validate(of).key


def _points(records: Iterable[Record], part: str) -> tuple[tuple[int, float], ...]:
    return tuple(
        (record["step"], float(record[f"{part}/loss"]))
        for record in records
        if record["kind"] == part and record.get(f"{part}/loss") is not None
    )


def _state(status: Status | None, imported: ImportOrigin | None, *, now: float) -> str:
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
