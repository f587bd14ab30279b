"""The records of a run as columns of numbers: as many as a run has, in little memory."""

import math
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from pydantic_core import to_json

from trainer.track.record.attempts import AttemptSteps, LastAttempts
from trainer.track.record.records import Record, RecordKind, whole_records

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: The metrics that are kept of each kind of record.
METRICS: dict[RecordKind, tuple[str, ...]] = {
    "train": (
        "train/loss",
        "optim/lr",
        "optim/grad_norm",
        "optim/loss_scale",
        "throughput/tokens_per_s",
        "throughput/mfu",
        "memory/peak_gib",
    ),
    "valid": ("valid/loss", "valid/ppl", "valid/ppl_word", "valid/bpc"),
}
#: The most events and samples that are kept, the last ones: a broken run may skip every step.
MOST_EVENTS, MOST_SAMPLES = 10_000, 50


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """Records of one kind by ascending step, each step once; a missing number is NaN."""

    step: Ints
    update: Ints
    tokens: Ints
    attempt: Ints
    time: Floats
    values: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.step)

    def metric(self, name: str) -> tuple[Ints, Floats]:
        """Return the places and values of the records that have a finite value of `name`."""
        column = self.values[name]
        places = np.flatnonzero(np.isfinite(column))
        return places, column[places]


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """All that a run recorded, without the steps that a later attempt did again."""

    train: Columns
    valid: Columns
    valid_of: tuple[dict[str, Any] | None, ...]
    """The measures of the validations, each once; None where records do not say."""
    valid_of_index: Ints
    """Place in `valid_of` of each validation."""
    events: tuple[Record, ...]
    """The last ones, in the order of the file."""
    n_events: Counter[str]
    """The number of events of each name."""
    samples: tuple[Record, ...]
    """The last ones, by ascending step."""
    last: Record | None
    """The record of the greatest step."""
    spans: dict[int, tuple[float, float]]
    """Unix time of the first and last record of each attempt."""

    @property
    def attempts(self) -> int:
        """Return the highest attempt; 0 without records."""
        return max(self.spans, default=0)

    @property
    def seconds(self) -> float:
        """Return the seconds of all attempts, those included whose steps were done again."""
        return sum(end - begin for begin, end in self.spans.values())

    def hours(self, columns: Columns) -> Floats:
        """Return the hours of training up to each record, without waiting and lost work."""
        steps, hours = self._train_clock()
        if not len(steps):
            return np.zeros(len(columns))
        return cast(Floats, np.interp(columns.step, steps, hours))

    def _train_clock(self) -> tuple[Ints, Floats]:
        """Return the steps of training and validation, and the hours up to each."""
        both = (self.train, self.valid)
        step = np.concatenate([part.step for part in both])
        order = np.lexsort((np.concatenate([part.time for part in both]), step))
        time = np.concatenate([part.time for part in both])[order]
        attempt = np.concatenate([part.attempt for part in both])[order]
        begins = np.array([self.spans[number][0] for number in attempt.tolist()])
        before = np.concatenate([begins[:1], time[:-1]])
        begun = np.concatenate([[True], attempt[1:] != attempt[:-1]])[: len(time)]
        passed = np.maximum(0.0, time - np.where(begun, begins, before))
        return step[order], np.cumsum(passed) / 3600


@dataclass
class _Gathered:
    """Records of one kind as they come."""

    names: tuple[str, ...]
    ints: dict[str, "array[int]"] = field(init=False)
    time: "array[float]" = field(default_factory=lambda: array("d"))
    values: dict[str, "array[float]"] = field(init=False)

    def __post_init__(self) -> None:
        self.ints = {name: array("q") for name in ("step", "update", "tokens", "attempt")}
        self.values = {name: array("d") for name in self.names}

    def add(self, record: Record) -> None:
        """Append a record."""
        for name, ints in self.ints.items():
            ints.append(record[name])
        self.time.append(record["time"])
        for name, column in self.values.items():
            value = record.get(name)
            column.append(math.nan if value is None else value)

    def kept(self, last: LastAttempts) -> tuple[Columns, Ints]:
        """Return the columns of the records that count, and their places among all."""
        step, attempt = _array(self.ints["step"], np.int64), _array(self.ints["attempt"], np.int64)
        latest = np.array([0, *last.attempts])
        done_last = latest[np.searchsorted(np.array(last.begins, np.int64), step, side="right")]
        places = np.flatnonzero(done_last <= attempt)
        order = places[np.lexsort((places, attempt[places], step[places]))]
        ordered = step[order]
        order = order[np.append(ordered[1:] != ordered[:-1], True)[: len(order)]]
        ints = {name: _array(column, np.int64)[order] for name, column in self.ints.items()}
        floats = {name: _array(column, np.float64)[order] for name, column in self.values.items()}
        return Columns(**ints, time=_array(self.time, np.float64)[order], values=floats), order


class Recording:
    """A gatherer of a run's records, which are added one by one."""

    def __init__(self) -> None:
        """Begin without records."""
        self._kinds = {kind: _Gathered(names) for kind, names in METRICS.items()}
        self._events: deque[Record] = deque(maxlen=MOST_EVENTS)
        self._n_events: Counter[str] = Counter()
        self._samples: deque[Record] = deque(maxlen=MOST_SAMPLES)
        self._steps = AttemptSteps()
        self._spans: dict[int, tuple[float, float]] = {}
        self._of: dict[bytes, int] = {}
        self._of_values: list[dict[str, Any] | None] = []
        self._of_index: array[int] = array("q")
        self._last: Record | None = None

    def add(self, record: Record) -> None:
        """Add a record in the order of the file."""
        kind, attempt, time = record["kind"], record["attempt"], record["time"]
        begin, end = self._spans.get(attempt, (time, time))
        self._spans[attempt] = min(begin, time), max(end, time)
        if self._last is None or record["step"] > self._last["step"]:
            self._last = record
        if kind == "event":
            self._n_events[record["event"][:80]] += 1
            self._events.append(record)
            if record["event"] == "resume":
                self._steps.resumed(attempt, record["step"])
            return
        self._steps.recorded(attempt, record["step"])
        if kind == "sample":
            self._samples.append(record)
            return
        self._kinds[kind].add(record)
        if kind == "valid":
            self._of_index.append(self._place_of(record.get("of")))

    def _place_of(self, of: dict[str, Any] | None) -> int:
        key = to_json(of)
        if key not in self._of:
            self._of[key] = len(self._of_values)
            self._of_values.append(of)
        return self._of[key]

    def history(self) -> History:
        """Return what was added so far."""
        last = LastAttempts(self._steps.ranges())
        train, _ = self._kinds["train"].kept(last)
        valid, places = self._kinds["valid"].kept(last)
        return History(
            train=train,
            valid=valid,
            valid_of=tuple(self._of_values),
            valid_of_index=_array(self._of_index, np.int64)[places],
            events=tuple(self._events),
            n_events=Counter(self._n_events),
            samples=_kept_samples(self._samples, last),
            last=self._last,
            spans=dict(self._spans),
        )


def recorded(records: Iterable[Record]) -> History:
    """Return the history of records in the order of their file."""
    recording = Recording()
    for record in records:
        recording.add(record)
    return recording.history()


def read_history(file: Path, *, tell: Callable[[str], None]) -> History:
    """Return the history in a run's file of records; `tell` is told of lines passed over.

    Raises:
        InputError: a newer version of the trainer wrote the file.
    """
    return recorded(whole_records(file, tell=tell))


def _kept_samples(samples: Iterable[Record], last: LastAttempts) -> tuple[Record, ...]:
    kept: dict[int, Record] = {}
    for sample in samples:
        step, attempt = sample["step"], sample["attempt"]
        if last.at(step) <= attempt and (step not in kept or kept[step]["attempt"] <= attempt):
            kept[step] = sample
    return tuple(kept[step] for step in sorted(kept))


def _array(column: Sequence[Any], dtype: Any) -> Any:
    return np.frombuffer(column, dtype) if len(column) else np.zeros(0, dtype)  # type: ignore[call-overload]
