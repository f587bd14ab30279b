"""Claimants of run directories whose time passes only as far as a test lets it."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from child import Child
from training import environment

from trainer.track.processes import this_place
from trainer.training.opening.claim import STALE_S
from trainer.training.opening.claimant import Claimant

HERE = this_place()
ELSEWHERE = dataclasses.replace(HERE, host="node7", boot="another")


class Clock:
    """The claimant's own, which passes when it pauses; something may happen meanwhile."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.now_s, self.meanwhile = 0.0, meanwhile

    def __call__(self) -> float:
        self.now_s += 1e-3
        return self.now_s

    def pause(self, seconds: float) -> None:
        self.now_s += seconds
        self.meanwhile()

    def claimant(self, *, here=HERE) -> Claimant:
        return Claimant(here=here, clock=self, pause=self.pause)


def claim(run_dir: Path, claimant: Claimant | None = None, *, for_s: float = 2 * STALE_S) -> float:
    """Claim the directory and give it back; how long the claimant's clock says that it took."""
    clock = Clock()
    claimant = claimant or clock.claimant()
    clock = claimant._clock
    began_s = clock.now_s
    while not claimant.attempt(run_dir):
        assert clock.now_s < began_s + for_s, "the directory is never free"
    passed_s = clock.now_s - began_s
    claimant.release()
    return passed_s


def contents(run_dir: Path) -> set[str]:
    return {str(path.relative_to(run_dir)) for path in run_dir.rglob("*")}


def killed(run_dir: Path) -> int:
    """Return the number of a process that claimed the directory and was killed."""
    code = f"""
from pathlib import Path
from trainer.training.opening.claimant import Claimant
assert Claimant().attempt(Path({str(run_dir)!r}))
print(flush=True)
input()
"""
    command = [sys.executable, "-c", code]
    with Child(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    return process.pid
