"""A start of a training, under one of the launchers: its processes, and what became of them."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from training import ROOT, environment

from disturbing.warm import WarmStarter
from trainer.launchers import RENDEZVOUS, complete_environ

TRAIN = str(ROOT / "launch" / "train.py")
#: Without a launcher, from a process that has loaded PyTorch already.
WARM = "warm"
#: `srun` starts each rank on a node of its own.
REAL = ("torchrun", "deepspeed", "srun")
#: Seconds that processes have to end after their launcher has.
ORPHAN_S = 60.0
_MARK = "SOAK_JOB"
_RANKS = ("RANK", "SLURM_PROCID")


class Job:
    """A training of `n_ranks` processes, and of its launcher's."""

    def __init__(
        self,
        launcher: str,
        argv: list[str],
        *,
        n_ranks: int,
        said: Path,
        starter: WarmStarter,
        **variables: str,
    ) -> None:
        """Start it; what it says is appended to `said`."""
        self.launcher, self.said = launcher, said
        self.ranks: dict[int, int] = {}
        """Processes of ranks that have been seen, by rank."""
        self._starter, self._n_ranks = starter, n_ranks
        self._mark, self._process = secrets.token_hex(8), None
        port = complete_environ({})["MASTER_PORT"]
        if launcher == WARM:
            for rank in range(n_ranks):
                place = (*2 * (str(rank), str(n_ranks)), "127.0.0.1", port)
                environ = dict(zip(RENDEZVOUS, place, strict=True)) | variables
                self.ranks[rank] = starter.start(argv, environ, said)
            return
        module = [sys.executable, "-m"]
        command = {
            "torchrun": [
                *(*module, "torch.distributed.run"),
                f"--nproc_per_node={n_ranks}",
                f"--master_port={port}",
            ],
            "deepspeed": [
                *(*module, "deepspeed.launcher.runner"),
                f"--num_gpus={n_ranks}",
                f"--master_port={port}",
            ],
            "srun": [
                "srun",
                f"--nodes={n_ranks}",
                f"--ntasks={n_ranks}",
                "--kill-on-bad-exit=1",
                sys.executable,
            ],
        }[launcher]
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if launcher == "srun" else {}
        with said.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, TRAIN, *argv],
                env=environment(**variables, **meeting, **{_MARK: self._mark}),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def find_ranks(self) -> dict[int, int]:
        """Return the processes that train, by rank."""
        if self.launcher != WARM:
            for pid, environ in self._marked():
                rank = next((environ[name] for name in _RANKS if name in environ), None)
                if rank is not None and _is_rank(pid):
                    self.ranks[int(rank)] = pid
        return self.ranks

    def launchers(self) -> list[int]:
        """Return the processes of its launcher, the one that was started first."""
        if self._process is None:
            return []
        ranks = self.find_ranks().values()
        others = [pid for pid, _ in self._marked() if pid not in (*ranks, self._process.pid)]
        return [self._process.pid, *others]

    def running(self) -> list[int]:
        """Return all of its processes that have not ended."""
        if self._process is None:
            running = [p for p in self.ranks.values() if self._starter.exit_code(p) is None]
            return [pid for pid in running if _is_alive(pid)]
        self._process.poll()  # or it stays a zombie
        return [pid for pid, _ in self._marked()]

    def has_ended(self) -> bool:
        """Return whether its launcher is gone; without one, whether all ranks are."""
        if self._process is not None:
            return self._process.poll() is not None
        return len(self.ended_ranks()) == len(self.ranks)

    def ended_ranks(self) -> list[int]:
        """Return the ranks that have ended without a launcher; a launcher looks after its own."""
        if self._process is not None:
            return []
        codes = {rank: self._starter.exit_code(pid) for rank, pid in self.ranks.items()}
        return [rank for rank, code in codes.items() if code is not None]

    def send(self, number: int, pids: list[int]) -> None:
        """Send them a signal; those that are gone do not mind."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def orphans(self) -> list[int]:
        """Return what still runs a while after the launcher's end, and end it."""
        deadline = time.monotonic() + ORPHAN_S
        while (left := self.running()) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.kill()
        return left

    def kill(self) -> None:
        """End all of it at once."""
        while left := self.running():
            self.send(signal.SIGKILL, left)
            time.sleep(0.02)
        if self._process is not None:
            self._process.wait()

    def _marked(self) -> list[tuple[int, dict[str, str]]]:
        """Return the processes that have this job's mark in their environment, alive ones only."""
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError):
                    text = Path("/proc", name, "environ").read_bytes()
                    if f"{_MARK}={self._mark}".encode() in text and _is_alive(int(name)):
                        words = text.decode(errors="replace").split("\0")
                        pairs = (word.partition("=") for word in words)
                        found.append((int(name), {key: value for key, _, value in pairs}))
        return found


def missing(launcher: str) -> str | None:
    """Return what a launcher needs and is not here."""
    if launcher == "srun" and not (shutil.which("srun") and "SLURM_CONF" in os.environ):
        return "a Slurm cluster"
    return None


def _is_alive(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_rank(pid: int) -> bool:
    """Return whether it runs the training file itself, and no module that starts it."""
    try:
        command = psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return False
    return command[:1] == [sys.executable] and TRAIN in command[1:5] and "-m" not in command
