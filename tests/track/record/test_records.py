"""A line that is no record costs itself alone, whatever it holds, and is told once."""

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import InputError
from trainer.track.record.metrics import next_attempt, read_metrics
from trainer.track.record.records import MAX_LINE_BYTES, METRICS_FILE, parse_record, whole_records

RECORD = {
    "schema": 1,
    "kind": "train",
    "attempt": 1,
    "step": 1,
    "update": 1,
    "tokens": 9,
    "time": 1.7e9,
    "train/loss": 2.5,
}


def line(kind: Any = "train", **changes: Any) -> bytes:
    own = {"event": {"event": "start"}, "sample": {"sample/text": "a"}}.get(str(kind), {})
    return json.dumps(RECORD | {"kind": kind} | own | changes).encode()


def without(key: str) -> bytes:
    return json.dumps({k: v for k, v in RECORD.items() if k != key}).encode()


BROKEN = [
    b"{",
    b"nothing",
    b"\xff",
    b"\0" * 40,
    b"[1]",
    b"null",
    b"3",
    b'"train"',
    b"{}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"schema": 1, "kind": "train", "att',
    line() + line(),
    line()[:-9] + b"\xff}",
    *(without(key) for key in RECORD if key != "train/loss"),
    *(
        line(**{key: value})
        for key in ("schema", "attempt", "step", "update", "tokens")
        for value in (-1, None, "1", 1.5, True, [1], {"a": 1}, 1 << 70)
    ),
    line(attempt=0),
    line(schema=0),
    line(schema=10**9),
    *(line(time=value) for value in (-1.0, None, "now", True, 1e300, [])),
    line(time=0).replace(b'"time": 0', b'"time": 1e999'),
    line(time=0).replace(b'"time": 0', b'"time": NaN'),
    *(line(kind=value) for value in ("training", "", None, 1, ["train"], {"train": 1})),
    *(line(**{"train/loss": value}) for value in ("2.5", True, [2.5], {"a": 1}, 10**400)),
    line(**{"train/loss": 0}).replace(b'loss": 0', b'loss": Infinity'),
    line("valid", of="mine"),
    line("valid", of={"split": 3}),
    line("valid", **{"valid/loss": "1"}),
    line("sample", **{"sample/text": ["a"]}),
    line("event", event=3),
    line("event", event=None),
    line("event", event="x" * 5_000),
    line(**{"a": "\ud800"}),
    b"\\ud800",
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: repr(broken[-60:]))
def test_a_line_that_is_no_record_costs_itself_alone(
    broken: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [line(step=step, attempt=2) for step in (1, 2, 3)]
    content = b"\n".join([good[0], broken, good[1], broken, good[2], b""])
    (tmp_path / METRICS_FILE).write_bytes(content)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3]
    (told,) = caplog.messages
    assert "2 lines are torn or no record, passed over; the first: line 2, " in told
    assert told.isprintable()
    assert len(told) < 500
    assert next_attempt(tmp_path) == 3


@pytest.mark.parametrize(
    "good",
    [
        line(),
        line(attempt=7),
        line(step=1 << 61),
        line(**{"train/loss": None}),
        line(**{"train/loss": 1 << 70}),
        line(**{"of anything": 3}),
        line(time=5),
        line("valid", of={"corpus": "/a/b", "split": "valid", "settings": {"mem_len": 3}}),
        line("sample", **{"n": 3}),
        line("event", ranks=[0, 1], where={"a": [None, "b"]}),
        line("event", error="no \udcff"),
        b"  " + line() + b"  ",
        line().replace(b" ", b""),
    ],
)
def test_a_record_is_read_as_it_was_written(good: bytes) -> None:
    assert parse_record(good) == json.loads(good)


def test_a_line_without_end_costs_no_memory(tmp_path: Path) -> None:
    """A sparse file: zeros of a gibibyte between two records."""
    path = tmp_path / METRICS_FILE
    with path.open("wb") as file:
        file.write(line(step=1) + b"\n")
        file.seek(1 << 30, os.SEEK_CUR)
        file.write(b"\n" + line(step=2) + b"\n")
    tracemalloc.start()
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MAX_LINE_BYTES


@pytest.mark.parametrize("n_more", [-1, 0, 1])
def test_the_longest_line_is_read_and_a_longer_one_told(
    n_more: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "x" * (MAX_LINE_BYTES + n_more - 1 - len(line("sample")))
    long = line("sample", **{"sample/text": "a" + text}) + b"\n"
    assert len(long) == MAX_LINE_BYTES + n_more
    (tmp_path / METRICS_FILE).write_bytes(line(step=1) + b"\n" + long + line(step=2) + b"\n")
    steps = [record["step"] for record in whole_records(tmp_path / METRICS_FILE)]
    assert steps == ([1, 1, 2] if n_more <= 0 else [1, 2])
    assert ("longer than 4,194,304 bytes" in caplog.text) == (n_more > 0)


def test_the_line_being_written_is_nothing_to_tell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for end in (line(step=2)[:30], b""):
        (tmp_path / METRICS_FILE).write_bytes(line(step=1) + b"\n" + end)
        assert [record["step"] for record in read_metrics(tmp_path)] == [1]
    assert caplog.messages == []


def test_a_newer_schema_is_refused_whatever_else_the_line_holds(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_bytes(line() + b"\n" + b'{"schema": 2, "what": "ever"}\n')
    with pytest.raises(InputError, match="line 2 has schema 2, newer than the 1 known here"):
        list(whole_records(tmp_path / METRICS_FILE))


def test_a_pipe_is_no_record_of_a_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / METRICS_FILE)
    assert next_attempt(tmp_path) == 1
    with pytest.raises(InputError, match=r"no metrics\.jsonl there"):
        read_metrics(tmp_path)
