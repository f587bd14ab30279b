"""Jobs of the tests under a real Slurm of two one-core nodes on this machine."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training import ROOT, Case, environment, losses

from trainer.track.record.records import METRICS_FILE


@dataclass(frozen=True)
class Job:
    """A job of train.sbatch on both nodes, one rank each."""

    id: str
    case: Case
    output: Path

    def state(self) -> dict[str, str]:
        """What Slurm knows of the job."""
        shown = run("scontrol", "--oneliner", "show", "job", self.id)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def wait(self, what: str, happened: Callable[["Job"], object], timeout_s: float = 240) -> None:
        """Return when it `happened`; a job that ends before that says why."""
        deadline = time.monotonic() + timeout_s
        while not happened(self):
            said = self.output.read_text() if self.output.exists() else ""
            assert time.monotonic() < deadline, f"no sign of {what}: {self.state()}\n{said}"
            time.sleep(0.5)

    def wait_for_step(self, step: int) -> None:
        """Return when the run has recorded the step."""
        self.wait(f"step {step}", lambda job: step in steps(job.case.run_dir))

    def wait_for_end(self) -> str:
        """Exit code and signal of the batch script, once the job is over."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.wait("its end", lambda job: job.state()["JobState"] in over)
        return self.state()["ExitCode"]


def run(*command: str) -> str:
    """What a command prints that must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def steps(run_dir: Path) -> dict[int, float]:
    """Training loss by step; nothing before the first."""
    return losses(run_dir) if (run_dir / METRICS_FILE).exists() else {}


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
