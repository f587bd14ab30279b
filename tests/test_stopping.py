"""Requests to stop are noted when they come, and the strongest one counts."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from training import ROOT

from trainer.stopping import LOOK_S, STOP_FILE, StopRequests, Wish

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


@pytest.fixture(autouse=True)
def _restore_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def requests(run_dir: Path, *, watches_file: bool = True) -> StopRequests:
    stops = StopRequests(run_dir, time_limit_s=None, watches_file=watches_file)
    stops.install()
    return stops


@pytest.mark.parametrize(
    ("number", "wish", "reason"),
    [
        (signal.SIGTERM, Wish.REQUEUE, "SIGTERM"),
        (signal.SIGUSR2, Wish.REQUEUE, "SIGUSR2"),
        (signal.SIGINT, Wish.STOP, "Ctrl-C"),
    ],
)
def test_a_signal_is_noted_and_kills_nobody(
    tmp_path: Path, number: signal.Signals, wish: Wish, reason: str
) -> None:
    stops = requests(tmp_path)
    assert stops.poll() is Wish.NONE
    os.kill(os.getpid(), number)
    assert (stops.poll(), stops.reason) == (wish, reason)


def test_one_rank_sees_the_stop_file_for_all(tmp_path: Path) -> None:
    watching, other = requests(tmp_path), requests(tmp_path, watches_file=False)
    (tmp_path / STOP_FILE).touch()
    assert (watching.poll(), watching.reason) == (Wish.STOP, "STOP file")
    assert other.poll() is Wish.NONE


def test_the_stop_file_is_looked_for_now_and_then(tmp_path: Path) -> None:
    now = [100.0]
    stops = StopRequests(tmp_path, time_limit_s=None, watches_file=True, clock=lambda: now[0])
    assert stops.poll() is Wish.NONE
    (tmp_path / STOP_FILE).touch()
    assert stops.poll() is Wish.NONE
    now[0] += LOOK_S
    assert stops.poll() is Wish.STOP


def test_the_time_limit_counts_from_the_start(tmp_path: Path) -> None:
    now = [100.0]
    stops = StopRequests(tmp_path, time_limit_s=60, watches_file=True, clock=lambda: now[0])
    now[0] = 159.0
    assert stops.poll() is Wish.NONE
    now[0] = 161.0
    assert (stops.poll(), stops.reason) == (Wish.REQUEUE, "time limit")


def test_a_users_stop_outranks_a_requeue_and_keeps_its_reason(tmp_path: Path) -> None:
    stops = requests(tmp_path)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert (stops.poll(), stops.reason) == (Wish.STOP, "Ctrl-C")
    assert max(Wish) is Wish.STOP  # which is how ranks agree


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    code = f"""
import os, signal, pathlib
from trainer.stopping import StopRequests
stops = StopRequests(pathlib.Path({str(tmp_path)!r}), time_limit_s=None, watches_file=True)
stops.install()
os.kill(os.getpid(), signal.SIGINT)
print(stops.poll().name, flush=True)
os.kill(os.getpid(), signal.SIGINT)
print("still here")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("STOP\n", 130)


@pytest.mark.parametrize(("ignores", "ends"), [(True, 0), (False, -signal.SIGUSR2)])
def test_a_signal_after_the_end_does_not_kill_what_is_done(ignores: bool, ends: int) -> None:
    code = (
        "import os, signal, pathlib\n"
        "from trainer.stopping import StopRequests, ignore_requests\n"
        "class Late:\n"
        "    def __init__(self): self.kill, self.me = os.kill, os.getpid()\n"
        "    def __del__(self): self.kill(self.me, 12)\n"
        "late = Late()\n"
        "StopRequests(pathlib.Path('x'), time_limit_s=None, watches_file=False).install()\n"
        f"if {ignores}: ignore_requests()\n"
    )
    assert signal.SIGUSR2 == 12
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == ends
