"""One call of a run to a target: train until it is met, all steps are done or the time is over."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measured.processes import ROOT

from trainer import read_metrics
from trainer.errors import Exit
from trainer.track.record.metrics import METRICS_FILE
from trainer.track.run_files.status import STATUS_FILE, Status, read_status
from trainer.training.ending.stopping import STOP_FILE

#: Seconds between looks at the run.
LOOK_S = 0.5
#: Of the product, for a run that travels: a call leaves the best and the newest checkpoint.
USUAL = {"--checkpoint.keep-last": "1", "--tracking.wandb": "disabled"}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call, as it is kept."""

    began: float
    """Unix time; so is the end."""
    ended: float
    code: int
    """Of the training command."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target of a run."""

    loss: float | None
    """Nats per token of the valid split; None is the end of all steps."""

    def is_met(self, run_dir: Path) -> bool:
        """Return whether a validation was as good."""
        losses = [record["valid/loss"] for record in validations(run_dir)]
        return self.loss is not None and any(
            loss is not None and loss <= self.loss for loss in losses
        )


def validations(run_dir: Path) -> list[dict[str, Any]]:
    """Return records of the run's validations, each step's last."""
    if not (run_dir / METRICS_FILE).is_file():
        return []
    return list(read_metrics(run_dir, kind="valid"))


def status_of(run_dir: Path) -> Status | None:
    """Return the run's status; None before its first start."""
    return read_status(run_dir) if (run_dir / STATUS_FILE).is_file() else None


def calls_file(run_dir: Path) -> Path:
    """Return the file beside a run's directory that knows its calls."""
    return run_dir.with_name(f"{run_dir.name}.calls.json")


def earlier_calls(run_dir: Path) -> list[Call]:
    """Return the calls that were kept."""
    file = calls_file(run_dir)
    return [Call(**told) for told in json.loads(file.read_text())] if file.is_file() else []


def keep(run_dir: Path, calls: list[Call]) -> None:
    """Keep calls beside the run, for it may travel."""
    calls_file(run_dir).write_text(json.dumps([asdict(call) for call in calls], indent=1) + "\n")


def train(
    recipe: str,
    corpus: Path,
    run_dir: Path,
    *,
    flags: list[str],
    target: Target,
    limit_s: float,
    kill_s: float,
) -> int:
    """Train as `launch/train.py` does, which resumes; return its exit code.

    Args:
        recipe: a name or a path.
        corpus: its folder.
        run_dir: the run's directory.
        flags: of the training command, besides; they win over what is usual here.
        target: what to reach; the run is asked to stop when it has.
        limit_s: seconds after which the run saves and leaves by itself.
        kill_s: seconds after which one that does not is killed, to go on from an earlier
            checkpoint.
    """
    command = [sys.executable, str(ROOT / "launch" / "train.py"), recipe]
    command += ["--data", str(corpus), "--run-dir", str(run_dir)]
    command += [part for pair in USUAL.items() for part in pair]
    command += [*flags, "--limits.time-limit-s", f"{limit_s:.1f}"]
    process, began = subprocess.Popen(command, process_group=0), time.monotonic()
    try:
        while True:
            try:
                return process.wait(timeout=LOOK_S)
            except subprocess.TimeoutExpired:
                pass
            if time.monotonic() > began + kill_s:
                print(f"the run did not end in time and is killed: {run_dir}", flush=True)
                os.killpg(process.pid, signal.SIGKILL)
            elif target.is_met(run_dir):
                (run_dir / STOP_FILE).touch()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)  # it saves
        process.wait()
        raise
    finally:
        (run_dir / STOP_FILE).unlink(missing_ok=True)  # if it had left by itself


def evaluate(run_dir: Path, flags: list[str], *, limit_s: float) -> str | None:
    """Score the test split with the best checkpoint; return what went wrong."""
    command = [sys.executable, "-m", "trainer", "eval", str(run_dir), *flags]
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return f"it took longer than the {limit_s:.0f} s that were left"
    return None if done.returncode == 0 else f"it ended with {done.returncode}"


def code_of(run_dir: Path, target: Target, *, trained: int) -> int:
    """Return the exit code of a call, as the product has them; `trained` is that of training."""
    if target.is_met(run_dir):
        return Exit.DONE
    if trained == Exit.DONE and target.loss is not None:
        return Exit.EXPECTATION
    return Exit.REQUEUE if trained == -signal.SIGKILL else trained
