"""torchrun's report ends with what a worker had to say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from training import ROOT, environment

from trainer.errors import Exit
from trainer.launcher_report import tell_launcher


def report(file: Path, *, code: int) -> list[str]:
    """Return what torchrun prints of a worker that left `file` for it."""
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=code, error_file=str(file))
    return ChildFailedError("train.py", {0: failure}).format_msg().splitlines()


def test_what_a_worker_leaves_ends_the_report(tmp_path: Path) -> None:
    file = tmp_path / "error.json"
    tell_launcher(
        "error: no such corpus\ngive another", environ={"TORCHELASTIC_ERROR_FILE": str(file)}
    )
    *_, first, second, frame = report(file, code=2)
    assert first.strip() == "traceback : error: no such corpus"
    assert second.strip() == "give another"
    assert set(frame) == {"="}


@pytest.mark.parametrize("path", [None, "/proc/nowhere/error.json"])
def test_where_nobody_asks_nothing_is_left(path: str | None) -> None:
    tell_launcher("lost", environ={} if path is None else {"TORCHELASTIC_ERROR_FILE": path})


def test_a_training_leaves_the_line_that_it_says_and_its_own_exit_code(tmp_path: Path) -> None:
    file = tmp_path / "error.json"
    done = subprocess.run(
        [sys.executable, "launch/train.py", "quickstart", "--data", str(tmp_path / "none")],
        env=environment(TORCHELASTIC_ERROR_FILE=str(file)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.BAD_INPUT
    (line,) = done.stderr.splitlines()
    assert report(file, code=2)[-2].strip() == f"traceback : {line}"
    assert json.loads(file.read_text())["message"]["message"] == line
