"""The record of a run survives whatever ends its writer, and reads as one continuous history."""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trainer
from trainer.errors import InputError
from trainer.track.record.metrics import MetricsWriter, next_attempt, read_metrics
from trainer.track.record.records import METRICS_FILE, Record


def train(writer: MetricsWriter, steps: range, **values: float) -> None:
    for step in steps:
        writer.write("train", step=step, update=step, n_tokens=10 * step, values=values)


def resume(writer: MetricsWriter, step: int) -> None:
    values = {"event": "resume"}
    writer.write("event", step=step, update=step, n_tokens=10 * step, values=values)


def steps_and_attempts(run_dir: Path, kind="train") -> list[tuple[int, int]]:
    return [(r["step"], r["attempt"]) for r in read_metrics(run_dir, kind=kind)]


def test_what_is_written_is_read_back_with_its_place_in_the_run(tmp_path):
    writer = MetricsWriter(tmp_path, attempt=1)
    values = {
        "train": {"train/loss": 4.25, "optim/skipped_steps": 3, "optim/loss_scale": None},
        "valid": {"valid/loss": 4.25, "of": {"corpus": "mine", "settings": {"mem_len": 3}}},
        "sample": {"sample/text": "ünï\ncode \ud800 \0"},
        "event": {"event": "checkpoint_failed", "error": "no \udcff", "ranks": [0, 1]},
    }
    for kind, of_kind in values.items():
        writer.write(kind, step=7, update=4, n_tokens=6300, values=of_kind)
    writer.close()
    for kind, of_kind in values.items():
        (record,) = trainer.read_metrics(tmp_path, kind=kind)
        assert record.pop("time") > 1.7e9
        place = {"schema": 1, "kind": kind, "attempt": 1, "step": 7, "update": 4, "tokens": 6300}
        assert record == place | of_kind


@pytest.mark.parametrize("kind", ["train", "valid"])
def test_a_metric_that_is_text_is_refused_where_it_is_written(tmp_path, kind):
    writer = MetricsWriter(tmp_path, attempt=1)
    with pytest.raises(ValueError, match="are numbers: text is for samples and events"):
        writer.write(kind, step=1, update=1, n_tokens=1, values={"note": "x"})
    writer.close()


def test_every_line_is_strict_json_and_what_is_not_finite_is_null(tmp_path):
    writer = MetricsWriter(tmp_path, attempt=1)
    train(writer, range(1, 2), loss=math.nan, norm=math.inf, lr=0.5)
    values = {"event": "skip", "losses": [1.0, -math.inf], "by_rank": {"0": math.nan}}
    writer.write("event", step=1, update=0, n_tokens=0, values=values)
    writer.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    lines = (tmp_path / METRICS_FILE).read_text().splitlines()
    train_record, event = (json.loads(line, parse_constant=refuse) for line in lines)
    assert (train_record["loss"], train_record["norm"], train_record["lr"]) == (None, None, 0.5)
    assert (event["losses"], event["by_rank"]) == ([1.0, None], {"0": None})


def test_a_metric_may_not_take_the_name_of_a_records_place(tmp_path):
    writer = MetricsWriter(tmp_path, attempt=1)
    with pytest.raises(ValueError, match="step"):
        writer.write("train", step=1, update=1, n_tokens=1, values={"step": 3})
    writer.close()
    assert read_metrics(tmp_path) == []


def test_steps_done_again_are_the_later_attempts(tmp_path):
    first = MetricsWriter(tmp_path, attempt=1)
    train(first, range(1, 54))
    first.close()
    second = MetricsWriter(tmp_path, attempt=next_attempt(tmp_path))
    resume(second, 40)
    train(second, range(41, 48))  # killed
    second.close()
    kept_of_first = [(s, 1) for s in range(1, 41)], [(s, 1) for s in range(48, 54)]
    expected = kept_of_first[0] + [(s, 2) for s in range(41, 48)] + kept_of_first[1]
    assert steps_and_attempts(tmp_path) == expected

    third = MetricsWriter(tmp_path, attempt=next_attempt(tmp_path))
    resume(third, 40)
    train(third, range(41, 61))
    third.close()
    expected = kept_of_first[0] + [(s, 3) for s in range(41, 61)]
    assert steps_and_attempts(tmp_path) == expected
    assert steps_and_attempts(tmp_path, "event") == [(40, 2), (40, 3)]


def test_a_changed_log_interval_leaves_nothing_of_what_was_done_again(tmp_path):
    first = MetricsWriter(tmp_path, attempt=1)
    train(first, range(3, 31, 3))  # 3, 6 … 30
    first.write("valid", step=20, update=20, n_tokens=200, values={"valid/loss": 1.0})
    first.write("valid", step=25, update=25, n_tokens=250, values={"valid/loss": 1.0})
    first.close()
    second = MetricsWriter(tmp_path, attempt=2)
    resume(second, 20)
    train(second, range(25, 31, 5))
    second.close()
    of_first = [(step, 1) for step in range(3, 21, 3)]
    assert steps_and_attempts(tmp_path) == [*of_first, (25, 2), (30, 2)]
    assert steps_and_attempts(tmp_path, "valid") == [(20, 1)]


def test_a_rollback_within_an_attempt_keeps_what_was_done_last(tmp_path):
    writer = MetricsWriter(tmp_path, attempt=1)
    train(writer, range(1, 6), loss=1.0)
    train(writer, range(4, 7), loss=2.0)
    writer.close()
    losses = [record["loss"] for record in read_metrics(tmp_path)]
    assert losses == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]


def test_the_next_attempt_is_one_more_than_any_before(tmp_path):
    assert next_attempt(tmp_path) == 1
    for attempt in (1, 2, 3):
        assert next_attempt(tmp_path) == attempt
        writer = MetricsWriter(tmp_path, attempt=attempt)
        resume(writer, 0)
        writer.close()


@pytest.mark.parametrize("lost_bytes", [1, 2, 40, 95])
def test_a_torn_last_line_costs_no_other_record(tmp_path, caplog, lost_bytes):
    first = MetricsWriter(tmp_path, attempt=1)
    train(first, range(1, 4), loss=1.0)
    first.close()
    path = tmp_path / METRICS_FILE
    os.truncate(path, path.stat().st_size - lost_bytes)
    whole = [1, 2, 3] if lost_bytes == 1 else [1, 2]
    assert [step for step, _ in steps_and_attempts(tmp_path)] == whole

    second = MetricsWriter(tmp_path, attempt=next_attempt(tmp_path))
    train(second, range(4, 6), loss=1.0)
    second.close()
    assert [step for step, _ in steps_and_attempts(tmp_path)] == [*whole, 4, 5]
    assert ("torn" in caplog.text) == (lost_bytes > 1)


def test_lines_that_are_no_records_are_passed_over(tmp_path, caplog):
    writer = MetricsWriter(tmp_path, attempt=1)
    train(writer, range(1, 2))
    writer.close()
    with (tmp_path / METRICS_FILE).open("ab") as file:
        file.write(b"\0" * 50 + b"\n" + b"\xff\xfe{}\n" + b"[1, 2]\n" + b'{"step": 1}\n' + b"\n")
    assert steps_and_attempts(tmp_path) == [(1, 1)]
    (told,) = caplog.messages
    assert "4 lines are torn or no record, passed over; the first: line 2, " in told


def naively_read(records: list[Record]) -> list[Record]:
    """Return of a step and kind the last record of the highest attempt that did the step."""
    done: dict[int, range] = {}
    for attempt in {r["attempt"] for r in records if r["kind"] != "event"}:
        own = [r for r in records if r["attempt"] == attempt]
        steps = [r["step"] for r in own if r["kind"] != "event"]
        resumed = [r["step"] for r in own if r["kind"] == "event"]
        done[attempt] = range(resumed[0] + 1 if resumed else min(steps), max(steps) + 1)
    kept = {}
    for r in records:
        later = [a for a, steps in done.items() if r["step"] in steps and a > r["attempt"]]
        if r["kind"] != "event" and not later:
            before = kept.get((r["kind"], r["step"]))
            if before is None or before["attempt"] <= r["attempt"]:
                kept[r["kind"], r["step"]] = r
    return sorted(kept.values(), key=lambda r: (r["step"], r["kind"]))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["train", "valid", "resume"]), st.integers(0, 9), st.integers(1, 5)
        ),
        max_size=40,
    )
)
def test_whatever_was_done_again_every_step_is_its_last_attempts(lines):
    with tempfile.TemporaryDirectory() as folder:
        for kind, step, attempt in lines:
            writer = MetricsWriter(Path(folder), attempt=attempt)
            (resume if kind == "resume" else train)(
                writer, step if kind == "resume" else range(step, step + 1)
            )
            writer.close()
        read = [r for r in read_metrics(folder) if r["kind"] != "event"] if lines else []
        path = Path(folder) / METRICS_FILE
        written = [json.loads(line) for line in path.read_text().splitlines()] if lines else []
    read.sort(key=lambda r: (r["step"], r["kind"]))
    assert read == naively_read(written)


def test_records_of_a_newer_format_and_missing_ones_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no metrics\.jsonl there"):
        read_metrics(tmp_path)
    (tmp_path / METRICS_FILE).write_text('{"schema": 2, "kind": "train"}\n')
    for read in (read_metrics, next_attempt):
        with pytest.raises(InputError, match=r"jsonl line 1 has schema 2, newer than the 1 known"):
            read(tmp_path)


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from trainer.track.record.metrics import MetricsWriter
writer = MetricsWriter(Path(sys.argv[1]), attempt=1)
for step in range(1, 200):
    writer.write("train", step=step, update=step, n_tokens=step, values={"train/loss": 1.0})
    if step == 150:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_sigkill_loses_no_record_that_was_written(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(tmp_path)])
    assert killed.returncode == -signal.SIGKILL
    assert steps_and_attempts(tmp_path) == [(step, 1) for step in range(1, 151)]


FULL_DISK = """
import resource, sys
from pathlib import Path
from trainer.track.record.metrics import MetricsWriter
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
writer = MetricsWriter(Path(sys.argv[1]), attempt=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
refused = 0
for step in range(1, 21):
    if step == 15:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    try:
        writer.write("train", step=step, update=step, n_tokens=step, values={"train/loss": 1.0})
    except OSError:
        refused += 1
writer.close()
print(refused)
"""


def test_a_disk_full_for_a_while_loses_nothing(tmp_path):
    """The file size limit stands for the disk: it tears a line in the middle, as a disk does."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    assert 1 <= int(shown.stdout) <= 13
    assert steps_and_attempts(tmp_path) == [(step, 1) for step in range(1, 21)]


def test_a_reader_beside_the_writer_sees_only_whole_records(tmp_path, caplog):
    writer = MetricsWriter(tmp_path, attempt=1)
    train(writer, range(1, 2), loss=1.0)
    seen: list[list[int]] = []
    done = threading.Event()

    def read_along() -> None:
        while not done.is_set():
            seen.append([step for step, _ in steps_and_attempts(tmp_path)])

    reader = threading.Thread(target=read_along)
    reader.start()
    train(writer, range(2, 500), loss=1.0)
    done.set()
    reader.join()
    writer.close()
    assert seen
    assert all(steps == list(range(1, len(steps) + 1)) for steps in seen)
