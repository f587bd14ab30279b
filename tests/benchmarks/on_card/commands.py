"""The trainer's own commands, in processes of their own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from measured.processes import ROOT
from on_card.rows import last_line


def train(argv: Sequence[str | Path]) -> str:
    """Train as `python launch/train.py` does, and return what it says.

    Raises:
        RuntimeError: it fails; its last line.
    """
    return _run(["launch/train.py", *argv])


def txl(argv: Sequence[str | Path]) -> str:
    """Do a command of `txl`, and return what it says; fails as `train` does."""
    return _run(["-m", "trainer", *argv])


def _run(argv: Sequence[str | Path]) -> str:
    command = [sys.executable, "-W", "ignore", *map(str, argv)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout, done.stderr, file=sys.stderr)
        said = last_line(done.stderr or done.stdout)
        raise RuntimeError(f"{Path(argv[0]).name} ended with {done.returncode}: {said}")
    return done.stdout + done.stderr
