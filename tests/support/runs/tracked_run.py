"""Runs that are only tracked, without a model: for the tests of tracking."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.config.recipe import TrackingConfig
from trainer.track.opening import open_tracker
from trainer.track.record.metrics import read_metrics
from trainer.track.tracker import Tracker


@pytest.fixture
def no_wandb_of_the_users(monkeypatch, tmp_path_factory):
    for variable in list(os.environ):
        if variable.startswith("WANDB_") or variable == "NETRC":
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def start(run_dir: Path, *, attempt=1, rank=0, step=0, wandb_id=None, **config) -> Tracker:
    run_dir.mkdir(exist_ok=True)
    return open_tracker(
        TrackingConfig(**config),
        run_dir=run_dir,
        rank=rank,
        attempt=attempt,
        max_steps=100,
        wandb_id=wandb_id,
        run_config={"model": {"n_layer": 4}, "attempt": attempt},
        environ=os.environ,
        pauses={},
        step=step,
        update=step,
    )


def train(tracker: Tracker, steps: range, **values) -> None:
    for step in steps:
        metrics = {"train/loss": 10.0 / step, **values}
        tracker.log("train", step=step, update=step, n_tokens=10 * step, values=metrics)


def steps_recorded(run_dir: Path) -> list[int]:
    return [record["step"] for record in read_metrics(run_dir, kind="train")]


OPEN_AND_LOG = """
import os, sys
from pathlib import Path
from trainer.config.recipe import TrackingConfig
from trainer.track.console.logs import setup_logging
from trainer.track.opening import open_tracker
setup_logging(0)
tracker = open_tracker(
    TrackingConfig(), run_dir=Path(sys.argv[1]), rank=0, attempt=1, max_steps=99, wandb_id=None,
    run_config={}, environ=os.environ, pauses={},
)
tracker.log("train", step=1, update=1, n_tokens=1, values={"train/loss": 1.0})
"""


def run_code(code: str, run_dir: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `code`, such as the above, in a process of its own."""
    command = [sys.executable, "-c", code, str(run_dir)]
    env = os.environ | environ
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env)
