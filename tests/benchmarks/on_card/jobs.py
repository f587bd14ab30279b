"""The parts of `card.py` as processes, each with a limit of time; one that fails is a row."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from measured.processes import ROOT, python_path
from on_card.rows import Ask, Row, last_line, row

HERE = Path(__file__).parent
SUPPORT = tuple(HERE.parents[1] / "support" / room for room in (".", "runs", "texts", "triton"))
#: Other versions of packages than the tests' own warn of other things.
_HOW = ("-q", "-p", "no:cacheprovider", "-W", "default")
#: Seconds below which a part is not begun, and that its process has to end by itself.
LEAST_S = 10


@dataclass(frozen=True, kw_only=True)
class Job:
    """A part that is measured."""

    name: str
    limit_s: float
    part: str = ""
    """Of `on_card.parts`."""
    told: dict[str, Any] = field(default_factory=dict)
    tests: tuple[str, ...] = ()
    """Arguments of pytest, in the place of a part."""

    def rows(self, device: str, *, deadline: float) -> tuple[list[Row], str]:
        """Do it, and give what it found, before it failed too, and what it said if it failed."""
        limit_s = min(self.limit_s, deadline - time.monotonic())
        if limit_s < LEAST_S:
            late = "there was no time left for it"
            return [row(self.name, "the part itself", late, ok=False)], ""
        began = time.monotonic()
        code, out, err = _run(self._command(device, limit_s), device=device, limit_s=limit_s)
        took = row("seconds", self.name, time.monotonic() - began)
        if self.tests:
            lines = out.strip().splitlines()
            told = lines[-1].strip("= ") if lines else last_line(err)
            failed = [line[:200] for line in lines if line.startswith(("FAILED", "ERROR"))]
            # Where all are skipped, nothing was tested.
            found = [row("tests", self.name, told, ok=code == 0 and " passed" in told)]
            found += [row("tests", self.name, line, ok=False) for line in failed]
            return [*found, took], "" if found[0].ok else f"{out}\n{err}"
        found = [Row(**json.loads(line)) for line in out.splitlines() if line.startswith('{"part"')]
        if code != 0:
            found.append(row(self.name, "the part itself", last_line(err), ok=False))
        return [*found, took], "" if all(one.ok for one in found) else err

    def _command(self, device: str, limit_s: float) -> list[str]:
        if self.tests:
            return [sys.executable, "-m", "pytest", *_HOW, *self.tests]
        ask = json.dumps(asdict(Ask(device, limit_s, self.told)))
        return [sys.executable, "-W", "ignore", str(HERE / "parts.py"), self.part, ask]


def done(
    jobs: Iterable[Job], device: str, *, deadline: float, at_once: int
) -> Iterator[tuple[Job, list[Row], str]]:
    """Do jobs, so many at once; give each with its rows and words when it has ended."""
    with ThreadPoolExecutor(at_once) as pool:
        futures = {pool.submit(job.rows, device, deadline=deadline): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], *future.result()


def _environment(device: str) -> dict[str, str]:
    changes = {"PYTHONPATH": python_path(ROOT, *SUPPORT, HERE.parent), "WANDB_MODE": "disabled"}
    if device == "cpu":
        changes |= {"TRITON_INTERPRET": "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return dict(os.environ) | changes


def _run(command: list[str], *, device: str, limit_s: float) -> tuple[int, str, str]:
    """Exit code and output of a command; if it takes too long it ends with all that it started."""
    process = subprocess.Popen(
        command,
        env=_environment(device),
        cwd=ROOT,
        process_group=0,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        err = f"took longer than {limit_s:.0f} s"
    return process.returncode, out, err
