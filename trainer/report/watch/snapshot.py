"""State of a run at one moment."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import InputError
from trainer.outside import printable
from trainer.report.folders import is_run
from trainer.report.history import History
from trainer.report.summary import best_validation, standing
from trainer.track.perplexity import perplexity
from trainer.track.record.records import Record
from trainer.track.record.sentences import event_sentence
from trainer.track.run_files.status import Status, read_status

#: Events, and characters of their sentences and of a sample, that are shown.
N_EVENTS, SENTENCE_CHARACTERS, SAMPLE_CHARACTERS = 8, 300, 2000
#: A heartbeat is missing after so many of the usual pauses, and not before so many seconds.
_PAUSES, _LEAST_S = 5.0, 10.0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A run at one moment; None is unknown."""

    run: str
    state: str
    is_alive: bool
    """True if more is to be expected of it."""
    reason: str | None
    step: int
    last_step: int | None
    """The step at which it ends, if no more updates are skipped."""
    attempt: int
    tokens: int | None
    eta_s: float | None
    heartbeat_age_s: float | None
    missing_s: float | None
    """Seconds since the heartbeat of a living run, if that is unusually long."""
    where: str | None
    loss: float | None
    ppl: float | None
    lr: float | None
    grad_norm: float | None
    tokens_per_s: float | None
    mfu: float | None
    memory_gib: float | None
    valid_loss: float | None
    valid_ppl: float | None
    valid_step: int | None
    best_loss: float | None
    best_ppl: float | None
    best_step: int | None
    events: tuple[tuple[int, str, str], ...]
    """Step, name and sentence, the last one last."""
    sample_step: int | None
    sample: str | None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; numbers that are not finite are None."""
        values = asdict(self)
        is_odd = {n for n, v in values.items() if isinstance(v, float) and not math.isfinite(v)}
        return {name: None if name in is_odd else value for name, value in values.items()}


def snapshot(run_dir: Path, history: History, *, now: float) -> Snapshot:
    """Return a run's snapshot at unix time `now`.

    Raises:
        InputError: there is no run.
    """
    status = read_status(run_dir)
    if status is None and history.last is None and not is_run(run_dir):
        raise InputError(f"{run_dir}: no run there: give the directory of a run")
    step = status.step if status else _of(history.last, "step", 0)
    update = status.update if status else _of(history.last, "update", 0)
    age = None if status is None else max(0.0, now - status.heartbeat)
    is_alive = (
        status is not None and status.state in ("starting", "running") and not status.is_gone()
    )
    numbers: dict[str, Any] = {
        "loss": _last(history, "train/loss"),
        "lr": _last(history, "optim/lr"),
        "grad_norm": _last(history, "optim/grad_norm"),
        "tokens_per_s": _last(history, "throughput/tokens_per_s"),
        "mfu": _last(history, "throughput/mfu"),
        "memory_gib": _last(history, "memory/peak_gib"),
    }
    samples = history.samples
    is_missing = is_alive and age is not None and age > _patience_s(history)
    missing_s = age if is_missing else None
    return Snapshot(
        run=printable(run_dir.resolve().name, most=80),
        state=standing(status, None, now=now),
        is_alive=is_alive,
        reason=status.reason and printable(status.reason, most=300) if status else None,
        step=step,
        last_step=status.max_steps + max(0, step - update) if status else None,
        attempt=max(status.attempt if status else 0, history.attempts),
        tokens=_of(history.last, "tokens", None),
        eta_s=_eta_s(status, age) if is_alive and missing_s is None else None,
        heartbeat_age_s=age,
        missing_s=missing_s,
        where=_where(status),
        ppl=None if numbers["loss"] is None else perplexity(numbers["loss"]),
        **numbers,
        **_validations(history),
        events=tuple(_event(event) for event in _worth_telling(history)),
        sample_step=samples[-1]["step"] if samples else None,
        sample=_sample(samples[-1]) if samples else None,
    )


def _of(record: Record | None, name: str, default: Any) -> Any:
    return default if record is None else record[name]


def _last(history: History, metric: str) -> float | None:
    _, values = history.train.metric(metric)
    return float(values[-1]) if len(values) else None


def _eta_s(status: Status | None, age: float | None) -> float | None:
    if status is None or status.eta_s is None or not math.isfinite(status.eta_s):
        return None
    return max(0.0, status.eta_s - (age or 0.0))


def _patience_s(history: History) -> float:
    """Return how old a heartbeat may be: it comes with every record."""
    times = history.train.time[-50:]
    pauses = np.diff(times)
    return max(_LEAST_S, _PAUSES * float(pauses.max()) if len(pauses) else 6 * _LEAST_S)


def _where(status: Status | None) -> str | None:
    return None if status is None else f"{printable(status.host, most=60)}, process {status.pid}"


def _validations(history: History) -> dict[str, Any]:
    places, losses = history.valid.metric("valid/loss")
    best = best_validation(history)
    if not len(places):
        return dict.fromkeys(
            ("valid_loss", "valid_ppl", "valid_step", "best_loss", "best_ppl", "best_step")
        )
    return {
        "valid_loss": float(losses[-1]),
        "valid_ppl": perplexity(float(losses[-1])),
        "valid_step": int(history.valid.step[places[-1]]),
        **{name: best[name] for name in ("best_loss", "best_ppl", "best_step")},
    }


def _worth_telling(history: History) -> list[Record]:
    """Return the last events; of checkpoints only the last, since there are many."""
    told = [event for event in history.events if event["event"] != "checkpoint"]
    checkpoints = [event for event in history.events if event["event"] == "checkpoint"]
    last = [*told[-N_EVENTS:], *checkpoints[-1:]]
    return sorted(last, key=lambda event: float(event["time"]))[-N_EVENTS:]


def _event(event: Record) -> tuple[int, str, str]:
    name = printable(event["event"], most=40)
    return event["step"], name, event_sentence(event, most=SENTENCE_CHARACTERS)


def _sample(record: Record) -> str:
    return str(record.get("sample/text") or "")[:SAMPLE_CHARACTERS]
