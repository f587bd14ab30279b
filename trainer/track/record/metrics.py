"""The record of a run: `metrics.jsonl`, one JSON object per line, appended and never rewritten.

A crash or a full disk may leave a line torn: the next attempt ends the line, and readers skip it.
Values that JSON does not have (NaN, infinities) are written as null, so that every line is strict
JSON and every column holds numbers.
"""

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.files import sync
from trainer.shell import typed_path
from trainer.track.record.attempts import AttemptSteps, LastAttempts
from trainer.track.record.records import METRICS_FILE, SCHEMA, Record, RecordKind, whole_records


class MetricsWriter:
    """A writer that appends records to a run's `metrics.jsonl`; one writer per run, on rank 0.

    Every record is one line, given to the operating system at once, so that killing the process
    loses none. After `sync` the records also survive a crash of the machine.

    Only `sync` waits for the disk, and only `sync` may be called from another thread.
    """

    def __init__(self, run_dir: Path, *, attempt: int) -> None:
        """Open `run_dir`'s record for appending; `attempt` counts the starts of the run from 1."""
        self.attempt = attempt
        self._path = run_dir / METRICS_FILE
        self._file = os.open(self._path, os.O_APPEND | os.O_CREAT | os.O_RDWR, 0o666)
        size = os.fstat(self._file).st_size
        torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"
        self._unwritten = b"\n" if torn else b""

    def write(
        self,
        kind: RecordKind,
        *,
        step: int,
        update: int,
        n_tokens: int,
        values: Mapping[str, Any],
    ) -> None:
        """Append one record; `values` are the metrics, or an event's name and details.

        Raises:
            OSError: the disk is full or gone. Nothing is lost: the next call first writes what is
                missing, including the rest of a torn line.
        """
        record = {
            "schema": SCHEMA,
            "kind": kind,
            "attempt": self.attempt,
            "step": step,
            "update": update,
            "tokens": n_tokens,
            "time": time.time(),
        }
        if reserved := record.keys() & values.keys():
            raise ValueError(f"metrics may not be called {', '.join(sorted(reserved))}")
        if kind in ("train", "valid") and any(isinstance(v, str) for v in values.values()):
            raise ValueError(f"metrics of kind {kind} are numbers: text is for samples and events")
        line = json.dumps(record | strict_json(values), allow_nan=False, separators=(",", ":"))
        self._unwritten += line.encode() + b"\n"
        self._drain()

    def sync(self) -> None:
        """Wait until all written records are on the disk itself."""
        sync(self._file)

    def close(self) -> None:
        """Write what is left, sync and close; the writer cannot be used afterwards."""
        try:
            self._drain()
            self.sync()
        finally:
            os.close(self._file)

    def _drain(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[os.write(self._file, self._unwritten) :]


def next_attempt(run_dir: Path) -> int:
    """Return 1 + the highest attempt recorded in `run_dir`; 1 for a new run."""
    path = run_dir / METRICS_FILE
    attempts = (record["attempt"] for record in whole_records(path)) if path.is_file() else ()
    return 1 + max(attempts, default=0)


def read_metrics(run_dir: str | Path, *, kind: RecordKind | None = None) -> list[Record]:
    """Return a run's records by ascending step, each step once per kind, and all events.

    Of a step that was done again, only the latest attempt counts: an earlier attempt's records are
    dropped from the step where the later attempt resumed to the last step that it recorded. Metrics
    that were not finite are None. Torn lines and lines that are no record are skipped, and their
    number is logged once. A run that is being written can be read.

    Args:
        run_dir: the run's directory.
        kind: the only kind of record wanted; None means all.

    Raises:
        InputError: the run has no `metrics.jsonl`, or a newer version of the trainer wrote it.
    """
    run_dir = typed_path(run_dir)
    if not (run_dir / METRICS_FILE).is_file():
        raise InputError(f"{run_dir}: no {METRICS_FILE} there; give the directory of a run")
    records = list(whole_records(run_dir / METRICS_FILE))
    last = LastAttempts(attempt_steps(records).ranges())
    kept: dict[tuple[Any, ...], Record] = {}
    for place, record in enumerate(records):
        if record["kind"] == "event":
            kept["event", place] = record
            continue
        step, attempt = record["step"], record["attempt"]
        if last.at(step) > attempt:
            continue
        key = record["kind"], step
        if key not in kept or kept[key]["attempt"] <= attempt:
            kept[key] = record
    wanted = [record for record in kept.values() if kind is None or record["kind"] == kind]
    return sorted(wanted, key=lambda record: record["step"])


def attempt_steps(records: Iterable[Record]) -> AttemptSteps:
    """Return the steps that each attempt did."""
    steps = AttemptSteps()
    for record in records:
        if record["kind"] != "event":
            steps.recorded(record["attempt"], record["step"])
        elif record.get("event") == "resume":
            steps.resumed(record["attempt"], record["step"])
    return steps


def strict_json(value: Any) -> Any:
    """Return `value` with None for everything that strict JSON does not have."""
    if isinstance(value, Mapping):
        return {key: strict_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
