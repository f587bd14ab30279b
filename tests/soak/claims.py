"""Throws many trainings at one run directory, kills some at random, and says what became of it.

    python tests/soak/claims.py                       # 2, 4 and 8 starts under every launcher
    python tests/soak/claims.py --starts 2 --launchers srun --kills 3 --seed 7

Of the starts that are alive together one trains, all others are refused in a line that names it.
Whoever trains is killed a few times, alone, with its launcher or by it, and as many starts follow.
In the end the run must be bitwise that of a single start that nobody disturbed.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SUPPORT = Path(__file__).parents[1] / "support"
sys.path[:0] = [str(SUPPORT.parents[1]), *(str(SUPPORT / room) for room in ("runs", "texts"))]

from training import (  # noqa: E402
    ROOT,
    Case,
    checkpoint_hashes,
    environment,
    events,
    losses,
    make_corpus,
)

from trainer.launchers import complete_environ  # noqa: E402
from trainer.track.processes import read_holder  # noqa: E402
from trainer.track.record.records import METRICS_FILE  # noqa: E402
from trainer.track.run_files.status import read_status  # noqa: E402
from trainer.training.opening.claim import CLAIM  # noqa: E402

TRAIN = str(ROOT / "launch" / "train.py")
LAUNCHERS = ("python", "torchrun", "deepspeed", "srun", "mpirun")
#: Seconds in which a job that lost a process must end by itself.
ENDS_S = 120.0


def flags(max_steps: int) -> list[str]:
    """Return the flags of a run of so many steps that saves many of them."""
    return ["--train.max-steps", str(max_steps), "--checkpoint.interval-steps", "5"]


def variables(launcher: str, rank: int, size: int, port: str) -> dict[str, str]:
    """Return what srun or Open MPI tell a task of one node."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if launcher == "srun":
        return meeting | {
            "SLURM_JOB_ID": "1",
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank),
            "SLURM_NTASKS": str(size),
            "SLURM_STEP_NUM_TASKS": str(size),
            "SLURM_NODEID": "0",
            "SLURM_STEP_NUM_NODES": "1",
            "SLURM_STEP_TASKS_PER_NODE": str(size),
        }
    names = {"RANK": rank, "SIZE": size, "LOCAL_RANK": rank, "LOCAL_SIZE": size}
    return meeting | {f"OMPI_COMM_WORLD_{name}": str(number) for name, number in names.items()}


class Job:
    """One start of a training: its processes, and what they say."""

    def __init__(self, launcher: str, argv: list[str], *, n_ranks: int, said: Path) -> None:
        port = complete_environ({})["MASTER_PORT"]
        module = [sys.executable, "-m"]
        commands = {
            "torchrun": [
                *module,
                "torch.distributed.run",
                f"--nproc_per_node={n_ranks}",
                f"--master_port={port}",
            ],
            "deepspeed": [
                *module,
                "deepspeed.launcher.runner",
                f"--num_gpus={n_ranks}",
                f"--master_port={port}",
            ],
        }
        command = [*commands.get(launcher, [sys.executable]), TRAIN, *argv]
        environs = [environment()]
        if launcher in ("srun", "mpirun"):
            told = [variables(launcher, rank, n_ranks, port) for rank in range(n_ranks)]
            environs = [environment(**variables) for variables in told]
        self.said, self.was_killed, self.ends_at = said, False, 0.0
        with said.open("wb") as output:
            self.processes = [
                subprocess.Popen(
                    command, env=environ, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
                )
                for environ in environs
            ]
        self.tree = [psutil.Process(process.pid) for process in self.processes]

    def has_ended(self) -> bool:
        """Return whether all its processes are gone, orphans of its launcher included."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.tree += psutil.Process(process.pid).children(recursive=True)
        self.tree = [process for process in set(self.tree) if alive(process)]
        if self.was_killed and self.tree and time.monotonic() > self.ends_at:
            raise AssertionError(f"{self.tree} outlive their job: {self.said.read_text()}")
        return not self.tree and all(process.poll() is not None for process in self.processes)

    def kill(self, whom: str, trainer: int) -> None:
        """Kill the training process, the processes that were started, or all."""
        self.has_ended()
        top = [process.pid for process in self.processes]
        every = [process.pid for process in self.tree]
        for pid in {"trainer": [trainer], "launcher": top, "all": every}[whom]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.was_killed, self.ends_at = True, time.monotonic() + ENDS_S


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class Outcome:
    """A tally of what became of many starts in one directory."""

    n_started: int = 0
    n_refused: int = 0
    killed: list[str] = field(default_factory=list)
    n_attempts: int = 0
    n_unsaved: int = 0
    """Saves that failed."""
    strange: list[str] = field(default_factory=list)
    """The words of starts that neither trained, nor were refused or killed."""
    seconds: float = 0.0

    def row(self) -> str:
        killed = ", ".join(self.killed) or "nobody"
        return (
            f"{self.n_started} starts, {self.n_refused} refused, killed: {killed}; "
            f"{self.n_attempts} attempts, {self.n_unsaved} failed saves, {self.seconds:.0f} s"
        )


def throw(
    case: Case,
    corpus: Path,
    *,
    launcher: str,
    n_starts: int,
    n_kills: int,
    n_ranks: int,
    seed: int,
    max_steps: int,
) -> Outcome:
    """Start `n_starts` trainings at once, and again after every kill, until the run is done."""
    draw, outcome, began = random.Random(seed), Outcome(), time.monotonic()
    jobs: list[Job] = []
    kill_at = draw.randint(1, max_steps // 3)
    for number in itertools.count():
        while not all(job.has_ended() for job in jobs):
            assert len(list_claim(case.run_dir)) <= 1
            if len(outcome.killed) < n_kills and newest_step(case.run_dir) >= kill_at:
                whom = draw.choice(("trainer", "launcher", "all"))
                if kill_trainer(case.run_dir, jobs, whom):
                    outcome.killed.append(f"{whom} at {newest_step(case.run_dir)}")
                    kill_at += draw.randint(1, max_steps // 3)
                    break
            time.sleep(0.05)
        status = read_status(case.run_dir) if case.run_dir.is_dir() else None
        if status is not None and status.state == "done" and all(job.has_ended() for job in jobs):
            break
        for start in range(n_starts):
            said = case.run_dir.with_name(f"{case.run_dir.name} {number}.{start}.out")
            jobs.append(Job(launcher, case.argv(corpus), n_ranks=n_ranks, said=said))
            outcome.n_started += 1
    for job in jobs:
        told = job.said.read_text(errors="replace")
        if "is being trained by process" in told:
            outcome.n_refused += 1
        elif not job.was_killed and " done: " not in told:
            outcome.strange.append(told)
    outcome.seconds = time.monotonic() - began
    outcome.n_unsaved = len(events(case.run_dir, "checkpoint_failed"))
    attempts = [json.loads(line)["attempt"] for line in metrics(case.run_dir)]
    assert attempts == sorted(attempts), "two trainings wrote at the same time"
    outcome.n_attempts = attempts[-1]
    begun = len(events(case.run_dir, "start")) + len(events(case.run_dir, "resume"))
    assert begun <= outcome.n_attempts, "two trainings took the same attempt"
    return outcome


def kill_trainer(run_dir: Path, jobs: list[Job], whom: str) -> bool:
    """Kill the job that trains now; whether there was one."""
    for file in list_claim(run_dir):
        holder = read_holder(file)
        for job in jobs:
            job.has_ended()
            if holder is not None and holder.pid in [process.pid for process in job.tree]:
                job.kill(whom, holder.pid)
                return True
    return False


def list_claim(run_dir: Path) -> list[Path]:
    try:
        return list((run_dir / CLAIM).iterdir())
    except FileNotFoundError:
        return []


def metrics(run_dir: Path) -> list[str]:
    """Return whole lines of the record, but for what a kill cut off."""
    lines = (run_dir / METRICS_FILE).read_text(errors="replace").splitlines()
    return [line for line in lines if line.startswith("{") and line.endswith("}")]


def newest_step(run_dir: Path) -> int:
    try:
        return int(json.loads(metrics(run_dir)[-1])["step"])
    except (OSError, IndexError):
        return 0


def differences(run_dir: Path, undisturbed: Path) -> list[str]:
    """Return what of a run is not bit for bit that of another."""
    found = []
    last = max(losses(undisturbed))
    if checkpoint_hashes(run_dir, last) != checkpoint_hashes(undisturbed, last):
        found.append("weights, moments or memory")
    if losses(run_dir) != losses(undisturbed):
        found.append("losses")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--launchers", nargs="+", choices=LAUNCHERS, default=LAUNCHERS)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    is_well = True
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder) / "corpus")
        alone: dict[int, Case] = {}

        def run(name: str, *, launcher: str, n_ranks: int, **how: int) -> tuple[Case, Outcome]:
            case = Case(Path(folder) / name, flags=flags(options.steps))
            known = {"seed": options.seed, "max_steps": options.steps}
            return case, throw(case, corpus, launcher=launcher, n_ranks=n_ranks, **known, **how)

        for launcher, n_starts in itertools.product(options.launchers, options.starts):
            n_ranks = 1 if launcher == "python" else options.ranks
            if n_ranks not in alone:
                alone[n_ranks], _ = run(
                    f"alone on {n_ranks}",
                    launcher="python" if n_ranks == 1 else "torchrun",
                    n_ranks=n_ranks,
                    n_starts=1,
                    n_kills=0,
                )
            case, outcome = run(
                f"{launcher} {n_starts}",
                launcher=launcher,
                n_ranks=n_ranks,
                n_starts=n_starts,
                n_kills=options.kills,
            )
            differ = differences(case.run_dir, alone[n_ranks].run_dir)
            is_well &= not (differ or outcome.strange or outcome.n_unsaved)
            said = f"differs in {' and '.join(differ)}" if differ else "bitwise the undisturbed run"
            print(f"{launcher}, {n_starts} at once: {outcome.row()}: {said}", flush=True)
            for told in outcome.strange:
                print(f"  a start ended otherwise:\n{told}", flush=True)
    sys.exit(not is_well)


if __name__ == "__main__":
    main()
