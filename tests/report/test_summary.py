"""The numbers of a run are those of its files, as far as each can be read, and say what of."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from child import Child
from reported_runs import CORPUS, LENGTHS, NOW, OF, make_imported, make_run, write_valid

from trainer.errors import InputError
from trainer.report.summary import SILENT_S, read_run
from trainer.track.processes import begun
from trainer.track.record.metrics import MetricsWriter
from trainer.track.record.records import MAX_LINE_BYTES
from trainer.track.run_files.status import Status, write_status


def test_the_numbers_of_a_run_are_those_of_its_records(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"), now=NOW).summary
    assert (run.run, run.state) == ("run", "running, eta 1m30s")
    assert (run.step, run.max_steps, run.attempts, run.skipped_steps) == (61, 1000, 2, 2)
    assert (run.best_loss, run.best_step) == (2.0, 40)
    assert run.best_ppl == pytest.approx(7.389056)
    assert (run.train_loss, run.tokens_per_s) == (2.0, 1234.5)
    assert (run.corpus, run.corpus_hash) == (CORPUS["corpus"], CORPUS["corpus_hash"])
    assert run.best_of is not None
    assert run.best_of.source == "valid of wt103 (010101010101)"
    assert [(r.loss, r.split, r.checkpoint) for r in run.evals] == [(2.25, "test", "step-00000040")]
    assert len(run.curve) == 48
    assert list(run.curve) == sorted(run.curve, reverse=True)
    assert (run.notes, run.error) == ((), None)


@pytest.mark.parametrize(
    "other",
    [
        {"split_hash": "09" * 16},
        {"precision": "fp32"},
        {"settings": LENGTHS | {"mem_len": 0}},
        {"settings": LENGTHS | {"warm": "near"}},
    ],
    ids=str,
)
def test_the_best_is_the_lowest_of_what_the_newest_validation_is_of(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    make_run(tmp_path / "run")
    writer = MetricsWriter(tmp_path / "run", attempt=2)
    for step, loss in ((70, 2.75), (80, 2.6), (90, 2.7)):
        write_valid(writer, step, loss, OF | other)
    writer.close()
    run = read_run(tmp_path / "run", now=NOW).summary
    assert (run.best_loss, run.best_step) == (2.6, 80)


@pytest.mark.parametrize("changes", [{"corpus": "renamed"}, {"corpus_hash": "07" * 16}], ids=str)
def test_a_corpus_renamed_or_grown_by_another_split_has_the_same_best(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    make_run(tmp_path / "run")
    writer = MetricsWriter(tmp_path / "run", attempt=2)
    write_valid(writer, 70, 2.75, OF | changes)
    writer.close()
    assert read_run(tmp_path / "run", now=NOW).summary.best_step == 40


def test_records_of_an_older_run_have_a_best_too(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, attempt=1)
    for step, loss in ((20, 3.0), (40, 2.0), (60, 2.5)):
        write_valid(writer, step, loss, None)
    writer.close()
    run = read_run(tmp_path, now=NOW).summary
    assert (run.best_loss, run.best_step, run.best_of, run.state) == (2.0, 40, None, "unknown")


def test_a_run_whose_process_is_gone_is_called_dead_at_once(tmp_path: Path) -> None:
    with Child([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        number = process.pid
        status = Status.of_this_process(state="running", max_steps=9, attempt=1)
        status = status.model_copy(update={"pid": number, "begun": begun(number)})
        write_status(tmp_path, status)
        assert read_run(tmp_path, now=status.heartbeat).summary.state == "running"
        process.kill()
    told = read_run(tmp_path, now=status.heartbeat).summary.state
    assert told == f"dead, was running: process {number} is gone"


def test_a_run_that_should_be_alive_but_says_nothing_is_called_silent(tmp_path: Path) -> None:
    make_run(tmp_path / "run", heartbeat=NOW - SILENT_S - 7200, host="elsewhere")
    assert read_run(tmp_path / "run", now=NOW).summary.state == "running, silent for 2h15m"


def test_an_imported_run_says_where_it_came_from(tmp_path: Path) -> None:
    run = read_run(make_imported(tmp_path / "run"), now=NOW).summary
    assert run.state == "imported"
    assert run.imported is not None
    assert (run.imported.layout, run.imported.file) == ("kimiyoung", "model.pt")
    assert [r.loss for r in run.evals] == [2.25]
    assert run.best_loss is None


def test_a_run_that_has_only_started_or_only_records_is_summarised(tmp_path: Path) -> None:
    (tmp_path / "starting").mkdir()
    write_status(tmp_path / "starting", Status(state="starting", max_steps=10, attempt=1))
    (tmp_path / "records").mkdir()
    MetricsWriter(tmp_path / "records", attempt=1).close()
    starting = read_run(tmp_path / "starting", now=NOW).summary
    assert starting.state.startswith("starting, silent for ")
    assert (starting.max_steps, starting.attempts) == (10, 1)
    assert read_run(tmp_path / "records", now=NOW).summary.state == "unknown"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name, told in (
        ("", r"neither status\.json nor metrics\.jsonl"),
        ("none", "no such folder"),
        ("file", "not a folder"),
        ("loop", "no such folder"),
    ):
        with pytest.raises(InputError, match=told):
            read_run(tmp_path / name, now=NOW)


HOSTILE = [
    b"",
    b"\0" * 30,
    b"{",
    b"[]",
    b"null",
    b"[" * 100_000,
    b"\xff",
    b'{"version": 9}',
    b'{"path": 3, "layout": [], "state": {}}',
    b"x" * (5 << 20),
]


@pytest.mark.parametrize("content", HOSTILE, ids=lambda content: repr(content[:40]))
@pytest.mark.parametrize(
    "name", ["status.json", "metrics.jsonl", "corpus.json", "imported.json", "evals/test.json"]
)
def test_a_file_that_cannot_be_read_costs_itself_alone(
    tmp_path: Path, name: str, content: bytes
) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    run = read_run(tmp_path / "run", now=NOW).summary
    has_records, has_status = name != "metrics.jsonl", name != "status.json"
    assert run.best_loss == (2.0 if has_records else None)
    assert run.max_steps == (1000 if has_status else None)
    assert len(run.evals) == (0 if name == "evals/test.json" else 1)
    has_line = b"\n" in content or len(content) > MAX_LINE_BYTES  # a torn one is written still
    silent = (not has_records and not has_line) or (name == "status.json" and not content)
    assert len(run.notes) == (0 if silent else 1)
    assert all(name in note for note in run.notes)
    json.dumps(run.model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1},
        {"step": "1"},
        {"step": 10**400},
        {"max_steps": None},
        {"attempt": [1]},
        {"result": {"throughput/tokens_per_s": [1]}},
        {"pid": -1},
        {"pid": 1 << 40},
        {"exit_code": -(10**400)},
        {"begun": 10**400},
        {"best_of": {"split": 3}},
    ],
    ids=str,
)
def test_a_status_with_numbers_that_cannot_be_is_noted(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = make_run(tmp_path / "run") / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    run = read_run(tmp_path / "run", now=NOW).summary
    assert (run.max_steps, run.best_loss, len(run.notes)) == (None, 2.0, 1)


NOT_NUMBERS = [float("inf"), float("nan"), -float("inf"), 10**400, 1e308, "fast", None]


@pytest.mark.parametrize("number", NOT_NUMBERS)
def test_a_throughput_that_is_no_number_is_not_there(tmp_path: Path, number: object) -> None:
    path = make_run(tmp_path / "run") / "status.json"
    result = {"throughput/tokens_per_s": number}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"result": result}))
    run = read_run(tmp_path / "run", now=NOW).summary
    assert run.tokens_per_s == (1e308 if number == 1e308 else None)
    assert run.notes == ()


def test_records_of_a_newer_version_are_said_to_be_and_the_rest_is_shown(tmp_path: Path) -> None:
    with (make_run(tmp_path / "run") / "metrics.jsonl").open("a") as file:
        file.write('{"schema": 2, "kind": "train"}\n')
    run = read_run(tmp_path / "run", now=NOW).summary
    assert (run.best_loss, run.max_steps, len(run.evals)) == (None, 1000, 1)
    assert "has schema 2, newer than the 1 known here: update" in run.notes[0]
    os.unlink(tmp_path / "run" / "status.json")
    (tmp_path / "run" / "evals" / "test.json").unlink()
    with pytest.raises(InputError, match="has schema 2, newer than the 1 known"):
        read_run(tmp_path / "run", now=NOW)
