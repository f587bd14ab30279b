"""Metrics reach their record, whatever becomes of those that are told of them beside it."""

import logging
import math
import resource
import sys

import pytest
from tracked_run import OPEN_AND_LOG, no_wandb_of_the_users, run_code, start, steps_recorded, train

from trainer.errors import Exit, InputError
from trainer.track.record.metrics import MetricsWriter, read_metrics

pytestmark = pytest.mark.usefixtures(no_wandb_of_the_users.__name__)


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level(logging.INFO, logger="trainer")


def test_disabled_wandb_is_not_imported_and_keeps_the_id(tmp_path):
    code = (
        OPEN_AND_LOG
        + "tracker.close(0)\nprint([m for m in ('wandb', 'torch') if m in sys.modules])"
    )
    assert run_code(code, tmp_path, WANDB_MODE="disabled").stdout.strip() == "[]"
    assert not (tmp_path / "wandb").exists()
    tracker = start(tmp_path, wandb="disabled", wandb_id="kept")
    tracker.close(Exit.DONE)
    assert tracker.wandb_id == "kept"


def test_ranks_other_than_0_write_nothing(tmp_path):
    tracker = start(tmp_path, rank=1, tensorboard=True)
    train(tracker, range(1, 3))
    tracker.event("stop", step=2, update=2, n_tokens=20)
    tracker.sync()
    tracker.close(Exit.DONE)
    assert (tracker.wandb_id, tracker.eta_s) == (None, None)
    assert list(tmp_path.iterdir()) == []


def test_events_are_recorded_and_said(tmp_path, caplog):
    tracker = start(tmp_path, wandb="disabled")
    tracker.event("skip", step=1200, update=1199, n_tokens=5, streams=[3, 4], loss=math.nan)
    tracker.close(Exit.DONE)
    (event,) = read_metrics(tmp_path, kind="event")
    assert (event["event"], event["streams"], event["loss"]) == ("skip", [3, 4], None)
    assert "step 1,200 left the weights as they were" in caplog.text


def test_a_full_disk_is_said_once_and_costs_no_record(tmp_path, caplog):
    tracker = start(tmp_path, wandb="disabled")
    train(tracker, range(1, 3))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        train(tracker, range(3, 10))
        tracker.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    train(tracker, range(10, 12))
    tracker.close(Exit.DONE)
    assert caplog.text.count("records wait in memory") == 1
    assert steps_recorded(tmp_path) == list(range(1, 12))


def test_tensorboard_hides_the_steps_that_are_done_again(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for attempt, steps, step in ((1, range(1, 8), 0), (2, range(4, 6), 3)):
        tracker = start(tmp_path, attempt=attempt, step=step, tensorboard=True, wandb="disabled")
        train(tracker, steps)
        values = {"sample/text": "To be"}
        tracker.log("sample", step=steps[-1], update=1, n_tokens=10, values=values)
        tracker.sync()
        tracker.close(Exit.DONE)
    board = accumulators.EventAccumulator(str(tmp_path / "logs" / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3, 4, 5]
    assert board.Scalars("train/loss")[3].value == 2.5
    assert board.Tags()["tensors"] == ["sample/text/text_summary"]


def test_tensorboard_hides_the_steps_that_a_rollback_does_again(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracker = start(tmp_path, tensorboard=True, wandb="disabled")
    train(tracker, range(1, 8))
    tracker.begin_attempt(2, step=3)
    train(tracker, range(4, 6))
    tracker.close(Exit.DONE)
    board = accumulators.EventAccumulator(str(tmp_path / "logs" / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3, 4, 5]


def test_tensorboard_is_asked_for_by_name_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        start(tmp_path, tensorboard=True)
    assert list(tmp_path.iterdir()) == []


def test_a_later_attempt_goes_on_with_the_attempts_of_the_record(tmp_path):
    MetricsWriter(tmp_path, attempt=1).close()
    tracker = start(tmp_path, attempt=2, wandb="disabled")
    train(tracker, range(1, 2))
    assert tracker.eta_s is not None
    tracker.close(Exit.DONE)
    assert [record["attempt"] for record in read_metrics(tmp_path)] == [2]
