"""wandb sees one run over all attempts, and nothing that happens to it ends the training."""

import logging
import math

import pytest
from tracked_run import OPEN_AND_LOG, no_wandb_of_the_users, run_code, start, steps_recorded, train
from wandb_reader import read_offline, read_records

from trainer.config import TrackingConfig
from trainer.errors import Exit, InputError
from trainer.tracking import open_tracker
from trainer.wandb_log import choose_id, stored_id, wandb_mode

pytestmark = pytest.mark.usefixtures(no_wandb_of_the_users.__name__)

KEY = "k" * 40


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
    assert runs.rows[-1]["sample/text"] == "To be"
    assert all("train/step" in row for row in runs.rows)
    assert steps_recorded(run) == list(range(1, 9))
    assert f"wandb sync {run}/wandb/offline-run-*-{tracker.wandb_id}" in caplog.text
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


@pytest.mark.parametrize(
    ("asked", "environ", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, "offline"),
        ("online", {"WANDB_MODE": "disabled"}, "disabled"),
        ("disabled", {"WANDB_API_KEY": KEY}, "disabled"),
        ("offline", {"WANDB_API_KEY": KEY}, "offline"),
    ],
)
def test_the_mode_is_the_environments_then_the_configurations(tmp_path, asked, environ, mode):
    assert wandb_mode(TrackingConfig(wandb=asked), environ | {"HOME": str(tmp_path)}) == mode


def test_a_key_in_netrc_counts_for_its_own_server_only(tmp_path, caplog):
    environ = {"HOME": str(tmp_path)}
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_mode(TrackingConfig(), environ) == "online"
    own = environ | {"WANDB_BASE_URL": "https://wandb.example.org"}
    assert wandb_mode(TrackingConfig(), own) == "offline"
    (tmp_path / "broken").write_text("machine")
    broken = environ | {"NETRC": str(tmp_path / "broken")}
    assert wandb_mode(TrackingConfig(), broken) == "offline"
    assert "broken is unreadable" in caplog.text


@pytest.mark.parametrize(
    ("environ", "problem"),
    [({"WANDB_MODE": "ofline"}, "did you mean 'offline'"), ({"WANDB_MODE": "online"}, "no key")],
)
def test_a_mode_that_cannot_be_is_refused_before_anything_is_written(tmp_path, environ, problem):
    with pytest.raises(InputError, match=problem):
        open_tracker(
            TrackingConfig(),
            run_dir=tmp_path,
            rank=0,
            attempt=1,
            max_steps=1,
            wandb_id=None,
            run_config={},
            environ=environ | {"HOME": str(tmp_path)},
        )
    assert list(tmp_path.iterdir()) == []


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
        for service in psutil.Process().children():
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


@pytest.mark.parametrize("kills", [{10, 20}, {10, 20, 30}, {30}])
def test_a_service_that_keeps_dying_does_not_end_training(tmp_path, kills):
    shown = run_code(f"kills = {kills}" + SERVICE_KILLED, tmp_path)
    failed = "could not be closed" if len(kills) == 1 else "going on without wandb"
    assert shown.stderr.count(failed) == 1
    assert "atexit" not in shown.stderr
    assert steps_recorded(tmp_path) == list(range(1, 31))


def test_a_home_that_cannot_be_written_is_not_needed(tmp_path):
    shown = run_code(OPEN_AND_LOG + "tracker.close(0)", tmp_path, HOME="/proc/nowhere")
    assert "ERROR" not in shown.stderr
    assert len(read_offline(tmp_path).rows) == 1
