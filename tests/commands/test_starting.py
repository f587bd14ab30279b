"""Whoever trains at a terminal is told from the first second on what takes time."""

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

from training import ROOT, environment

from trainer.errors import Exit


def test_a_terminal_gets_a_word_before_the_imports_and_a_pipe_the_error_alone(
    tmp_path: Path,
) -> None:
    command = [sys.executable, str(ROOT / "launch" / "train.py"), "quickstart", "--device", "cpu"]
    command += ["--data", str(tmp_path / "none"), "--tracking.wandb", "disabled"]
    ours, theirs = pty.openpty()
    at_terminal = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(COLUMNS="300"),
        cwd=tmp_path,
    )
    os.close(theirs)
    piped = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, cwd=tmp_path
    )
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(ours, 1 << 16):
            shown += part
    os.close(ours)
    assert at_terminal.wait() == piped.returncode == Exit.BAD_INPUT
    loading, opening, refusal = shown.decode().splitlines()
    assert loading.endswith(" [0] loading PyTorch and DeepSpeed")
    assert opening.endswith(f" [0] opening the corpus in {tmp_path / 'none'}")
    assert piped.stderr.splitlines() == [refusal]
    assert refusal.startswith("error: ")
