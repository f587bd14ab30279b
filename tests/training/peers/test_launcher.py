"""A rank whose launcher is gone asks for a requeue; a shell above the launcher may end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training import ROOT, unmeasured

from trainer.errors import Exit
from trainer.training.ending.stopping import StopRequests, Wish
from trainer.training.peers.launcher import launchers

#: A launcher that starts another, or in the end the rank, and waits for it.
LAUNCHER = """
import subprocess, sys
sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))
"""
RANK = """
import os, sys, threading
from trainer.training.peers.launcher import launchers, watch_launchers
found = launchers(os.environ)
told = threading.Event()
def on_end(reason):
    print(reason, flush=True)
    told.set()
watch_launchers(found, on_end)
print(" ".join(f"{one.name}:{one.pid}" for one in found), flush=True)
told.wait()
"""


def start(folder: Path, *names: str, **environ: str) -> "subprocess.Popen[str]":
    """Start launchers of these names, the first starts the second, and the last the rank."""
    scripts = []
    for name in names:
        scripts.append(str(folder / name))
        (folder / name).write_text(LAUNCHER)
    return subprocess.Popen(
        [sys.executable, *scripts, "-c", RANK],
        env=unmeasured() | environ,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL])
def test_a_rank_under_deepspeed_notices_the_end_of_the_first_of_its_launchers(
    tmp_path: Path, number: signal.Signals
) -> None:
    with start(tmp_path, "deepspeed", "deepspeed.launcher.launch") as runner:
        assert runner.stdout is not None
        launch, above = runner.stdout.readline().split()
        assert above == f"deepspeed:{runner.pid}"
        assert launch.startswith("deepspeed:")
        runner.send_signal(number)
        reason = runner.stdout.readline()
    assert reason == f"the launcher deepspeed (process {runner.pid}) is gone\n"


def test_a_rank_under_torchrun_or_what_is_built_on_it_has_one_launcher(tmp_path: Path) -> None:
    with start(tmp_path, "shell.py", "accelerate", TORCHELASTIC_RUN_ID="x") as shell:
        assert shell.stdout is not None
        (launcher,) = shell.stdout.readline().split()
        name, _, pid = launcher.partition(":")
        assert name == "torchrun"
        assert int(pid) != shell.pid
        os.kill(int(pid), signal.SIGKILL)
        assert shell.stdout.readline() == f"the launcher torchrun (process {pid}) is gone\n"


def test_a_process_that_a_shell_or_nohup_started_has_no_launcher() -> None:
    assert launchers({}) == []


def test_a_run_that_holds_something_saves_it_before_it_leaves(tmp_path: Path) -> None:
    stops = StopRequests()
    stops.hold(tmp_path, time_limit_s=None, watches_file=False)
    stops.launcher_ended("the launcher is gone")
    assert (stops.poll(), stops.reason) == (Wish.REQUEUE, "the launcher is gone")


def test_a_process_that_holds_nothing_leaves_at_once() -> None:
    code = "from trainer.training.ending.stopping import StopRequests\n"
    code += "StopRequests().launcher_ended('gone')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == Exit.REQUEUE
    assert done.stderr == "gone, before anything was trained\n"
