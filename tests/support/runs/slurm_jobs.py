"""Jobs of the tests under a real Slurm of two one-core nodes on this machine."""

import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training import ROOT, Case, environment

from trainer import read_metrics
from trainer.track.record.records import METRICS_FILE

FAILED = ("FAILED", "TIMEOUT", "NODE_FAIL")
OVER = (*FAILED, "COMPLETED", "CANCELLED")
STARTED = (*OVER, "RUNNING")

PACED = ["--train.max-steps", "300", "--model.factory", "paced_model:build"]
PACED += ["--checkpoint.interval-steps", "2", "--tracking.wandb", "offline"]
"""A run that lasts until the file named by `GO` lets it end, on a machine of any speed."""


@dataclass(frozen=True)
class Job:
    """A training of train.sbatch, one rank per node: a job, or a task of an array."""

    id: str
    case: Case
    output: Path
    n_nodes: int = 2

    def state(self) -> dict[str, str]:
        """Return what Slurm knows of the job."""
        shown = run("scontrol", "--oneliner", "show", "job", self.id)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def wait(self, what: str, happened: Callable[["Job"], object], timeout_s: float = 1000) -> None:
        """Return when it `happened`; a job that fails before that says why.

        Slurm lets a job that was requeued wait two minutes, for nodes that are not idle are not rid
        of its last start. A start in the second of that one's end they take for that one, and
        refuse. Where they have been idle for longer the job starts at once.
        """
        deadline = time.monotonic() + timeout_s
        looks_idle = 0
        while True:
            state = self.state()
            if happened(self):
                return
            said = self.output.read_text() if self.output.exists() else ""
            is_hopeless = state["JobState"] in FAILED or time.monotonic() > deadline
            assert not is_hopeless, f"no sign of {what}: {state}\n{said}"
            is_back = state["JobState"] == "PENDING" and state["Restarts"] != "0"
            looks_idle = looks_idle + 1 if is_back and self.n_nodes <= n_idle() else 0
            if looks_idle > 4:
                at_once = ["scontrol", "update", f"JobId={self.id}", "StartTime=now"]
                subprocess.run(at_once, check=False, capture_output=True)
            time.sleep(0.5)

    def wait_for_step(self, step: int) -> None:
        """Return when the run has recorded the step."""
        self.wait(f"step {step}", lambda job: step in steps(job.case.run_dir))

    def wait_for_attempt(self, *, after: int = 0, n_steps: int = 4) -> int:
        """Number of the first attempt after that one, once it has recorded so many steps."""
        counts: Counter[int] = Counter()

        def happened(job: Job) -> bool:
            counts.clear()
            counts.update(record["attempt"] for record in records(job.case.run_dir))
            return counts[max(counts, default=0)] >= n_steps and max(counts) > after

        self.wait(f"{n_steps} steps after attempt {after}", happened)
        return max(counts)

    def wait_for_restart(self, restarts: int) -> None:
        """Return when Slurm has started the job again, for so many times in all."""

        def happened(job: Job) -> bool:
            state = job.state()
            assert int(state["Restarts"]) <= restarts
            return int(state["Restarts"]) == restarts and state["JobState"] in STARTED

        self.wait(f"restart {restarts}", happened)

    def wait_for_end(self) -> str:
        """Exit code and signal of the batch script, once the job is over."""
        self.wait("its end", lambda job: job.state()["JobState"] in OVER)
        return self.state()["ExitCode"]


def run(*command: str) -> str:
    """Return what a command prints that must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def n_idle() -> int:
    """Number of nodes on which nothing runs or is being cleared away."""
    return run("sinfo", "-h", "-N", "-p", "low", "-o", "%T").split().count("idle")


def records(run_dir: Path) -> list[dict[str, Any]]:
    """Every step that an attempt has trained last; nothing before the first."""
    if not (run_dir / METRICS_FILE).exists():
        return []
    return read_metrics(run_dir, kind="train")


def steps(run_dir: Path) -> dict[int, float]:
    """Training loss by step; nothing before the first."""
    return {record["step"]: record["train/loss"] for record in records(run_dir)}


def sbatch(*words: str, **variables: str) -> str:
    """Submit a job with these variables; its id."""
    return subprocess.run(
        ["sbatch", "--parsable", *words],
        cwd=ROOT,
        text=True,
        check=True,
        env=environment(**variables),
        stdout=subprocess.PIPE,
    ).stdout.strip()
