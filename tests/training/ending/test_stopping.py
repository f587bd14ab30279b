"""Requests to stop end a process that has nothing to save; later the strongest one counts."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from child import Child
from training import ROOT, unmeasured

from trainer.errors import Exit
from trainer.training.ending.stopping import LOOK_S, STOP_FILE, StopRequests, Wish

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT)


@pytest.fixture(autouse=True)
def _restore_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def stops(tmp_path: Path) -> Iterator[StopRequests]:
    """Yield the requests of a process with something to save, which watches for the STOP file."""
    stops = StopRequests()
    stops.install()
    stops.hold(tmp_path, time_limit_s=None, watches_file=True)
    yield stops
    stops.close()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_is_noted_and_kills_nobody(stops: StopRequests, number: signal.Signals) -> None:
    assert stops.poll() is Wish.NONE
    os.kill(os.getpid(), number)
    is_interrupt = number == signal.SIGINT
    assert stops.poll() is (Wish.STOP if is_interrupt else Wish.REQUEUE)
    assert stops.reason == ("Ctrl-C" if is_interrupt else number.name)


def test_a_hangup_that_is_ignored_stays_so_and_no_other_signal(tmp_path: Path) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    stops = StopRequests()
    stops.install()
    stops.hold(tmp_path, time_limit_s=None, watches_file=True)
    os.kill(os.getpid(), signal.SIGHUP)
    assert stops.poll() is Wish.NONE
    os.kill(os.getpid(), signal.SIGUSR1)  # as a script has it that shields its launcher
    assert stops.poll() is Wish.REQUEUE
    stops.close()


def test_one_rank_sees_the_stop_file_for_all(tmp_path: Path, stops: StopRequests) -> None:
    other = StopRequests()
    other.hold(tmp_path, time_limit_s=None, watches_file=False)
    (tmp_path / STOP_FILE).touch()
    assert (stops.poll(), stops.reason) == (Wish.STOP, "STOP file")
    assert other.poll() is Wish.NONE


def test_the_stop_file_is_looked_for_now_and_then(tmp_path: Path) -> None:
    now = [100.0]
    stops = StopRequests(clock=lambda: now[0])
    stops.hold(tmp_path, time_limit_s=None, watches_file=True)
    assert stops.poll() is Wish.NONE
    (tmp_path / STOP_FILE).touch()
    assert stops.poll() is Wish.NONE
    now[0] += LOOK_S
    assert stops.poll() is Wish.STOP


def test_the_time_limit_counts_from_the_start(tmp_path: Path) -> None:
    now = [100.0]
    stops = StopRequests(clock=lambda: now[0])
    now[0] = 130.0  # what was imported
    stops.hold(tmp_path, time_limit_s=60, watches_file=True)
    now[0] = 159.0
    assert stops.poll() is Wish.NONE
    now[0] = 161.0
    assert (stops.poll(), stops.reason) == (Wish.REQUEUE, "time limit")


def test_a_users_stop_outranks_a_requeue_and_keeps_its_reason(stops: StopRequests) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert (stops.poll(), stops.reason) == (Wish.STOP, "Ctrl-C")
    assert max(Wish) is Wish.STOP  # which is how ranks agree


def test_one_ctrl_c_beside_a_stop_file_is_not_the_second(
    tmp_path: Path, stops: StopRequests
) -> None:
    (tmp_path / STOP_FILE).touch()
    assert stops.poll() is Wish.STOP
    os.kill(os.getpid(), signal.SIGINT)
    assert (stops.poll(), stops.reason) == (Wish.STOP, "STOP file")


BEGIN = """
import os, pathlib, signal, time
from trainer.training.ending.stopping import StopRequests
stops = StopRequests()
stops.install()
"""
HOLD = "stops.hold(pathlib.Path('x'), time_limit_s=None, watches_file=False)\n"


def ended(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", BEGIN + code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_second_ctrl_c_leaves_at_once() -> None:
    interrupt = "os.kill(os.getpid(), signal.SIGINT)\n"
    done = ended(HOLD + interrupt + "print(stops.poll().name, flush=True)\n" + interrupt * 2)
    assert (done.stdout, done.returncode) == ("STOP\n", Exit.ABORTED)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_with_nothing_to_save_a_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    done = ended(f"os.kill(os.getpid(), {int(number)})\nprint('still here')")
    is_interrupt = number == signal.SIGINT
    assert done.returncode == (Exit.ABORTED if is_interrupt else Exit.REQUEUE)
    assert done.stdout == ""
    told = "" if is_interrupt else f"interrupted by {number.name} before anything was trained\n"
    assert done.stderr == told


#: The main thread is in C and hears no handler, as in a collective that waits for a peer.
DEAF = """
import ctypes
signals = ctypes.create_string_buffer(128)
libc = ctypes.CDLL(None)
libc.sigaddset(signals, signal.SIGWINCH)
print("deaf", flush=True)
libc.sigwait(signals, ctypes.byref(ctypes.c_int()))
"""


@pytest.mark.parametrize(
    ("held", "number", "code"),
    [
        (True, signal.SIGINT, Exit.ABORTED),
        (False, signal.SIGINT, Exit.ABORTED),
        (False, signal.SIGTERM, Exit.REQUEUE),
    ],
)
def test_a_process_that_waits_for_a_peer_leaves_when_it_may(
    held: bool, number: signal.Signals, code: Exit
) -> None:
    with Child(
        [sys.executable, "-c", BEGIN + (HOLD if held else "") + DEAF],
        cwd=ROOT,
        env=unmeasured(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"deaf\n"
        while process.poll() is None:  # signals that wait to be delivered do not add up
            process.send_signal(number)
    assert process.returncode == code


#: What prints to a slow terminal delays the end.
SLOW = """
end = os._exit
def end_slowly(code):
    time.sleep(0.5)
    end(code)
os._exit = end_slowly
print("slow", flush=True)
while True:
    stops.poll()
"""


def test_ctrl_c_that_is_held_down_leaves_as_the_second_one_does() -> None:
    with Child(
        [sys.executable, "-c", BEGIN + HOLD + SLOW],
        cwd=ROOT,
        env=unmeasured(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"slow\n"
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert (process.returncode, process.stderr.read()) == (Exit.ABORTED, b"")


@pytest.mark.parametrize(("closes", "ends"), [(True, 0), (False, -signal.SIGUSR2)])
def test_a_signal_after_the_end_does_not_kill_what_is_done(closes: bool, ends: int) -> None:
    done = ended(
        HOLD + "class Late:\n"
        "    def __init__(self): self.kill, self.me = os.kill, os.getpid()\n"
        "    def __del__(self): self.kill(self.me, 12)\n"
        f"late = Late()\nif {closes}: stops.close()\n"
    )
    assert signal.SIGUSR2 == 12
    assert done.returncode == ends
