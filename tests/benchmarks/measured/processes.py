"""Implementations as processes of their own, and the machine that they run on."""

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from measured.variants import Variant

BENCHMARKS = Path(__file__).parents[1]
ROOT = BENCHMARKS.parents[1]
CPU_INFO = Path("/proc/cpuinfo")
#: Instructions that decide how much faster bf16 is than fp32.
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


def python_path(*first: Path) -> str:
    """Return a PYTHONPATH of these folders, and then of what is on it."""
    return os.pathsep.join(filter(None, [*map(str, first), os.environ.get("PYTHONPATH", "")]))


def processor(device: str, *, cpu_info: Path = CPU_INFO) -> str:
    """Return the name of what computes, as its maker or the kernel says it.

    Virtual machines often hide a processor's name, but not its family, model and instructions.
    """
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    told = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", cpu_info.read_text(), re.M))
    flags = told.get("flags", told.get("Features", "")).split()
    known = [f"{key} {told[key]}" for key in ("cpu family", "model") if key in told]
    known += [flag for flag in BF16_FLAGS if flag in flags] or ["no bf16 instructions"]
    return f"{told.get('model name', 'a processor')} ({', '.join(known)})"


def machine(device: str) -> dict[str, str]:
    """Return what figures depend on: the processor, and versions."""
    versions = {name: metadata.version(name) for name in ("torch", "deepspeed", "numpy")}
    return {"processor": processor(device), **versions}


class Worker:
    """A process that does steps when it is told to."""

    def __init__(
        self,
        variant: Variant,
        task: dict[str, Any],
        folder: Path,
        *,
        deadline: float = math.inf,
    ) -> None:
        """Start it, and wait until it is ready; at `deadline`, of `time.monotonic`, it is killed.

        Raises:
            SystemExit: it ended, or was killed; so does all that asks it.
        """
        self.deadline = deadline
        file = folder / f"{variant.name.replace(' ', '-')}.json"
        file.write_text(json.dumps(task | asdict(variant)))
        device = str(task["device"])
        root = Path(variant.checkout) if variant.is_earlier else ROOT
        benchmarks = root / BENCHMARKS.relative_to(ROOT)
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": python_path(ROOT / ".peer", root, benchmarks),
        }
        if device == "cpu":
            environment["DS_ACCELERATOR"] = "cpu"
        self._log = (folder / f"{file.stem}.log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", benchmarks / variant.script, file],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._read()

    def steps(self, n_steps: int) -> dict[str, Any]:
        """Do steps; gives seconds, losses and the peak of memory."""
        return self.ask(steps=n_steps)

    def ask(self, **what: int) -> dict[str, Any]:
        """Ask for one thing that `measured.worker` knows, and wait for the answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: its log says why
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with self._killed_in_time():
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with self._killed_in_time():
            for line in self._process.stdout:
                if line.startswith("{"):
                    answer: dict[str, Any] = json.loads(line)
                    return answer
        self._log.seek(0)
        said = self._log.read()[-4000:]
        self.close()
        if time.monotonic() >= self.deadline:
            raise SystemExit("a worker took too long")
        raise SystemExit(f"a worker ended:\n{said}")

    @contextlib.contextmanager
    def _killed_in_time(self) -> Iterator[None]:
        left_s = self.deadline - time.monotonic()
        timer = threading.Timer(min(max(0.0, left_s), threading.TIMEOUT_MAX), self._process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
