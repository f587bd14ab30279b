"""The columns of a run's records are what `read_metrics` returns, in less memory."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from reported_runs import OF, make_run

from trainer.report.history import MOST_EVENTS, History, read_history, recorded
from trainer.track.record.metrics import read_metrics
from trainer.track.record.records import METRICS_FILE


def record(kind: str, step: int, **values: Any) -> dict[str, Any]:
    counters = {"update": step, "tokens": 10 * step, "attempt": 1, "time": 1000.0 + step}
    return {"schema": 1, "kind": kind, "step": step, **counters, **values}


RECORDS = st.lists(
    st.one_of(
        st.builds(
            lambda kind, step, attempt, loss: record(
                kind, step, attempt=attempt, **{f"{kind}/loss": loss}
            ),
            st.sampled_from(["train", "valid"]),
            st.integers(0, 9),
            st.integers(1, 4),
            st.floats(0, 9) | st.none(),
        ),
        st.builds(
            lambda step, attempt: record("event", step, attempt=attempt, event="resume"),
            st.integers(0, 9),
            st.integers(1, 4),
        ),
        st.builds(
            lambda step, attempt, text: record("sample", step, attempt=attempt, text=text),
            st.integers(0, 9),
            st.integers(1, 4),
            st.text(max_size=2),
        ),
    ),
    max_size=40,
)


@given(RECORDS)
def test_the_latest_attempt_of_a_step_counts_as_in_read_metrics(
    tmp_path_factory: Any, records: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    lines = (json.dumps(r) + "\n" for r in records)
    (folder / METRICS_FILE).write_text("".join(lines))
    history = recorded(records)
    for kind, columns in (("train", history.train), ("valid", history.valid)):
        kept = read_metrics(folder, kind=kind)  # type: ignore[arg-type]
        assert columns.step.tolist() == [r["step"] for r in kept]
        assert columns.attempt.tolist() == [r["attempt"] for r in kept]
        losses = [r[f"{kind}/loss"] for r in kept]
        expected = [math.nan if loss is None else loss for loss in losses]
        np.testing.assert_array_equal(columns.values[f"{kind}/loss"], expected)
    assert list(history.samples) == read_metrics(folder, kind="sample")


def test_a_runs_file_is_read_and_torn_lines_are_told(tmp_path: Path) -> None:
    run, told = make_run(tmp_path / "run"), list[str]()
    file = run / METRICS_FILE
    whole = read_history(file, tell=told.append)
    assert told == []
    with file.open("a") as lines:
        lines.write('{"torn\n{"half a la')
    again = read_history(file, tell=told.append)
    assert again.train.step.tolist() == whole.train.step.tolist() == [*range(1, 62)]
    assert again.train.metric("train/loss")[0].tolist() == [*range(60)]  # the last was not finite
    (said,) = told
    assert "1 line is torn or no record" in said
    assert whole.valid_of[0] == {**OF}


def test_hours_count_training_alone_and_seconds_all_attempts() -> None:
    records = [
        record("event", 0, event="start", time=0.0),
        *(record("train", step, time=3600.0 * step) for step in (1, 2, 3)),
        record("event", 1, event="resume", attempt=2, time=90_000.0),
        *(
            record("train", step, attempt=2, time=90_000.0 + 3600 * (step - 1))
            for step in (2, 3, 4)
        ),
    ]
    history = recorded(records)
    assert history.hours(history.train).tolist() == [1, 2, 3, 4]
    assert history.seconds == (3 + 3) * 3600


def test_a_clock_that_was_set_back_turns_no_hour_negative() -> None:
    history = recorded([record("train", 1, time=500.0), record("train", 2, time=100.0)])
    assert (np.diff(history.hours(history.train)) >= 0).all()


def test_no_records_are_a_history_too() -> None:
    history: History = recorded([])
    assert (len(history.train), len(history.valid), history.last) == (0, 0, None)
    assert (history.attempts, history.seconds) == (0, 0)
    assert history.hours(history.train).tolist() == []


def test_of_endless_events_the_last_are_kept_and_all_are_counted() -> None:
    skips = (record("event", step, event="skip") for step in range(MOST_EVENTS + 5))
    history = recorded(skips)
    assert history.n_events["skip"] == MOST_EVENTS + 5
    assert [history.events[0]["step"], len(history.events)] == [5, MOST_EVENTS]
