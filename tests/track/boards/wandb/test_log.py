"""wandb sees one run over all attempts, and nothing that happens to it ends the training."""

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from child import Child
from tracked_run import OPEN_AND_LOG, no_wandb_of_the_users, run_code, start, steps_recorded, train
from wandb_reader import read_offline, read_records

from trainer.config.recipe import load_recipe
from trainer.errors import Exit
from trainer.track.boards.wandb.log import choose_id, stored_id
from trainer.track.boards.wandb.settings import id_problem
from trainer.track.measure import Lengths
from trainer.track.opening import track_evaluations
from trainer.track.record.metrics import read_metrics
from trainer.track.run_files.results import FOLDER, EvalResult, file_result
from trainer.track.run_files.status import Status, write_status

pytestmark = pytest.mark.usefixtures(no_wandb_of_the_users.__name__)

KEY = "k" * 40


def samples_of(run: Path, row: dict[str, Any]) -> list[list[Any]]:
    """Return the rows of the table that a logged row names."""
    assert row["sample/texts._type"] == "table-file"
    (file,) = run.glob(f"wandb/offline-run-*/files/{row['sample/texts.path']}")
    content = json.loads(file.read_text())
    assert content["columns"] == ["step", "tokens", "text"]
    return content["data"]


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level(logging.INFO, logger="trainer")


def test_two_attempts_are_one_wandb_run_on_one_axis(tmp_path, caplog):
    run = tmp_path / "run"
    tracker = start(run)
    train(tracker, range(1, 6))
    tracker.close(Exit.REQUEUE)
    again = start(run, attempt=2, step=3)
    again.event("resume", step=3, update=3, n_tokens=30)
    train(again, range(4, 9), **{"train/ppl": math.nan, "optim/grad_norm": math.inf})
    again.log("valid", step=8, update=8, n_tokens=80, values={"valid/loss": 1.5})
    again.log("sample", step=8, update=8, n_tokens=80, values={"sample/text": "To be"})
    again.close(Exit.DONE)

    runs = read_offline(run)
    assert again.wandb_id == tracker.wandb_id
    assert runs.ids == [tracker.wandb_id, tracker.wandb_id]
    assert runs.config == {"model": {"n_layer": 4}, "attempt": 2}
    by_step = {row["train/step"]: row["train/loss"] for row in runs.rows if "train/loss" in row}
    assert by_step == {step: 10.0 / step for step in range(1, 9)}
    assert runs.rows[0]["train/tokens"] == 10
    assert {"train/ppl", "optim/grad_norm"}.isdisjoint(set().union(*runs.rows))
    assert runs.rows[-2]["valid/loss"] == 1.5
    assert samples_of(run, runs.rows[-1]) == [[8, 80, "To be"]]
    assert all("train/step" in row for row in runs.rows)
    (event,) = (row for row in runs.rows if "event/resume" in row)
    assert event["train/step"] == 3
    assert steps_recorded(run) == list(range(1, 9))
    assert f"wandb sync {run}/wandb/offline-run-*-{tracker.wandb_id}*" in caplog.text
    assert not list(run.rglob("requirements.txt"))
    assert not list(run.rglob("*.patch"))


def test_the_id_outlives_the_checkpoint_and_the_checkpoint_the_directory(tmp_path):
    environ: dict[str, str] = {}
    first = choose_id(tmp_path, wandb_id=None, environ=environ)
    assert choose_id(tmp_path, wandb_id=None, environ=environ) == first
    assert choose_id(tmp_path, wandb_id="anothers", environ=environ) == first
    (tmp_path / "moved").mkdir()
    assert choose_id(tmp_path / "moved", wandb_id=first, environ=environ) == first
    assert choose_id(tmp_path, wandb_id=None, environ={"WANDB_RUN_ID": "sweep1"}) == "sweep1"
    assert stored_id(tmp_path) == "sweep1"


def test_a_sweeps_id_and_the_environments_names_come_first(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "trial7")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    tracker = start(tmp_path)
    train(tracker, range(1, 3))
    tracker.close(Exit.DONE)
    assert tracker.wandb_id == "trial7"
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    (run,) = (record["run"] for record in read_records(log) if "run" in record)
    assert (run["run_id"], run["project"], run["sweep_id"]) == ("trial7", "theirs", "sweep1")


def test_a_dead_server_means_offline_with_the_way_to_upload(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    tracker = start(tmp_path)
    train(tracker, range(1, 4))
    tracker.close(Exit.DONE)
    assert "going on offline" in caplog.text
    assert "wandb sync" in caplog.text
    assert KEY not in caplog.text
    runs = read_offline(tmp_path)
    assert runs.ids == [tracker.wandb_id]
    assert [row["train/step"] for row in runs.rows] == [1, 2, 3]


SERVICE_KILLED = (
    OPEN_AND_LOG
    + """
import psutil
for step in range(2, 31):
    tracker.log("train", step=step, update=step, n_tokens=step, values={"train/loss": 1.0})
    if step in kills:
        for where in filter(None, [os.environ.get("WANDB_SERVICE")]):
            service = psutil.Process(int(where.split("-")[-2]))
            service.kill()
            service.wait()
tracker.close(0)
"""
)


def test_a_service_that_is_killed_is_started_again_once(tmp_path):
    shown = run_code("kills = {10}" + SERVICE_KILLED, tmp_path)
    assert shown.stderr.count("opening it again") == 1
    assert "without wandb" not in shown.stderr
    runs = read_offline(tmp_path)
    assert set(runs.ids) == {stored_id(tmp_path)}
    assert [row["train/step"] for row in runs.rows[-15:]] == list(range(16, 31))
    assert steps_recorded(tmp_path) == list(range(1, 31))


def test_a_service_that_ends_before_the_run_is_open_is_started_again(tmp_path):
    """A machine may stand still for longer than the service waits."""
    dies_once = """
import psutil
from trainer.track.boards.wandb import service
begin = service._start
def start_and_die(environ):
    service._start = begin
    where = begin(environ)
    process = psutil.Process(int(where.split("-")[-2]))
    process.kill()
    process.wait()
    return where
service._start = start_and_die
"""
    shown = run_code(dies_once + OPEN_AND_LOG + "tracker.close(0)", tmp_path)
    assert shown.stderr.count("opening it again") == 1
    assert [row["train/step"] for row in read_offline(tmp_path).rows] == [1]


@pytest.mark.parametrize("kills", [{10, 20}, {10, 20, 30}, {30}])
def test_a_service_that_keeps_dying_does_not_end_training(tmp_path, kills):
    shown = run_code(f"kills = {kills}" + SERVICE_KILLED, tmp_path)
    failed = "could not be closed" if len(kills) == 1 else "going on without wandb"
    assert shown.stderr.count(failed) == 1
    assert "atexit" not in shown.stderr
    assert steps_recorded(tmp_path) == list(range(1, 31))


LAUNCHER_ENDS_ALL = (
    OPEN_AND_LOG
    + """
import psutil, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
for step in range(2, 21):
    tracker.log("train", step=step, update=step, n_tokens=step, values={"train/loss": 1.0})
    if step == 10:
        os.killpg(0, signal.SIGINT)
        for process in psutil.Process().children(recursive=True):
            process.terminate()
            process.wait()
tracker.close(0)
assert "WANDB_SERVICE" not in os.environ
"""
)


def test_what_ends_a_jobs_processes_costs_no_row(tmp_path):
    """A terminal and the `deepspeed` launcher hand Ctrl-C to all processes of a job."""
    with Child(
        [sys.executable, "-c", LAUNCHER_ENDS_ALL, str(tmp_path)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert "opening it again" not in said
    runs = read_offline(tmp_path)
    assert len(runs.ids) == 1
    assert [row["train/step"] for row in runs.rows] == list(range(1, 21))


def test_a_home_that_cannot_be_written_is_not_needed(tmp_path):
    shown = run_code(OPEN_AND_LOG + "tracker.close(0)", tmp_path, HOME="/proc/nowhere")
    assert "ERROR" not in shown.stderr
    assert len(read_offline(tmp_path).rows) == 1


def test_an_id_that_wandb_would_refuse_is_not_kept(tmp_path, caplog):
    (tmp_path / "wandb").mkdir()
    for broken in ("a/b\n", " ", "\ufeff?"):
        (tmp_path / "wandb/run_id.txt").write_text(broken)
        made = choose_id(tmp_path, wandb_id="c:d", environ={})
        assert id_problem(made) is None
        assert stored_id(tmp_path) == made
    assert caplog.text.count("a new one is made") == 3


def test_system_metrics_are_there_unless_they_are_switched_off(tmp_path):
    for wanted in (True, False):
        run = tmp_path / str(wanted)
        tracker = start(run, system_metrics=wanted)
        assert tracker._wandb._run.settings.x_disable_stats is not wanted
        tracker.close(Exit.DONE)


def test_samples_of_all_attempts_are_one_table(tmp_path):
    for attempt, steps in ((1, (1, 2, 4)), (2, (3,))):
        tracker = start(tmp_path, attempt=attempt, step=steps[0] - 1)
        tracker.event("resume", step=steps[0] - 1, update=steps[0] - 1, n_tokens=0)
        for step in steps:
            values = {"sample/text": f"text {step}\n\x1b[31m"}
            tracker.log("sample", step=step, update=step, n_tokens=10 * step, values=values)
        tracker.close(Exit.DONE)
    rows = [row for row in read_offline(tmp_path).rows if "sample/texts.path" in row]
    assert len(rows) == 4
    assert samples_of(tmp_path, rows[-1]) == [
        [step, 10 * step, f"text {step}\n\x1b[31m"] for step in (1, 2, 3)
    ]


def test_evaluations_reach_the_wandb_run_once_whoever_was_there(tmp_path):
    """Evaluations made while a run trains come as it ends, later ones with `txl eval` itself."""
    tracker = start(tmp_path)
    file_result(tmp_path, result(mem_len=64, loss=2.0))
    tracker.close(Exit.DONE)
    recipe = load_recipe("quickstart")
    (tmp_path / "config.json").write_text(recipe.model_dump_json())
    file_result(tmp_path, result(mem_len=0, loss=3.0))
    for _ in range(2):
        track_evaluations(tmp_path, environ=os.environ)
    rows = [row for row in read_offline(tmp_path).rows if any("eval/" in key for key in row)]
    assert [row["train/step"] for row in rows] == [7, 7]
    of = "eval/test-books-cccccccc/tgt32-mem{}-clamp0-full-exact-fp32"
    assert rows[0][f"{of.format(64)}/loss"] == 2.0
    assert rows[1][f"{of.format(0)}/loss"] == 3.0
    assert "of books (cccccccccccc): " in rows[1][f"{of.format(0)}/of"]
    write_status(tmp_path, Status(state="running", max_steps=9, attempt=1))
    file_result(tmp_path, result(mem_len=9, loss=4.0))
    track_evaluations(tmp_path, environ=os.environ)
    assert len(read_offline(tmp_path).ids) == 3


def test_an_evaluation_that_wandb_may_not_have_comes_with_the_next_attempt(tmp_path):
    """A list of names that cannot be read ends no attempt: its evaluations come again."""
    file_result(tmp_path, result(mem_len=64, loss=2.0))
    (tmp_path / FOLDER).rename(tmp_path / "later")
    filed = f"Path(sys.argv[1], 'later').rename(Path(sys.argv[1], {FOLDER!r}))\n"
    run_code(
        "kills = {10, 30}" + SERVICE_KILLED.replace("tracker.close", f"{filed}tracker.close"),
        tmp_path,
    )
    assert not (tmp_path / "wandb/evaluations.txt").exists()
    start(tmp_path, attempt=2).close(Exit.DONE)
    (tmp_path / "wandb/evaluations.txt").unlink()
    (tmp_path / "wandb/evaluations.txt").mkdir()
    start(tmp_path, attempt=3).close(Exit.DONE)
    rows = [row for row in read_offline(tmp_path).rows if any("eval/" in key for key in row)]
    assert {row["train/step"] for row in rows} == {7}
    assert len(rows) == 3  # once for attempt 2; at both ends of attempt 3


def result(*, mem_len: int, loss: float) -> EvalResult:
    return EvalResult(
        corpus="books",
        corpus_hash="c" * 32,
        split="test",
        split_hash="d" * 32,
        precision="fp32",
        rule="every token",
        settings=Lengths(tgt_len=32, mem_len=mem_len, warm="exact"),
        loss=loss,
        step=7,
        checkpoint="step-00000007",
    )


def test_a_run_that_wandb_left_says_so_in_its_record(tmp_path):
    run_code("kills = {10, 20}" + SERVICE_KILLED, tmp_path)
    (event,) = (e for e in read_metrics(tmp_path, kind="event") if e["event"] == "untracked")
    assert event["reason"]
