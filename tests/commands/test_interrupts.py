"""A command that is asked to end leaves its code, no traceback and nothing half made."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from child import Child
from saved_checkpoints import contents
from training import ROOT, Case, unmeasured

from trainer.errors import Exit

BEGIN = """
import os, signal, sys
from trainer.commands.interrupts import Interrupts
interrupts = Interrupts()
interrupts.install()
"""


def ended(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", BEGIN + code], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("name", "code"),
    [("SIGINT", Exit.ABORTED), ("SIGTERM", Exit.TERMINATED), ("SIGHUP", Exit.HUNG_UP)],
)
def test_a_signal_becomes_an_exception_that_lets_a_command_clean_up(name: str, code: Exit) -> None:
    done = ended(
        f"try: signal.raise_signal(signal.{name}); print('not reached')\n"
        "except KeyboardInterrupt: print(interrupts.exit_code)\n"
    )
    assert done.stdout == f"{int(code)}\n"


def test_a_second_signal_does_not_wait() -> None:
    done = ended(
        "try: signal.raise_signal(signal.SIGINT)\n"
        "finally: signal.raise_signal(signal.SIGINT); print('not reached')\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (Exit.ABORTED, "", "")


def test_what_is_ignored_stays_ignored() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + "signal.raise_signal(signal.SIGINT); print('goes on')"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert (done.returncode, done.stdout) == (0, "goes on\n")


#: A module as many are: it turns what happens while it is read into something else.
SWALLOWS = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass
except BaseException:
    raise ImportError("cannot be imported")
"""


def test_an_import_that_swallows_exceptions_is_left_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    done = ended(f"sys.path.insert(0, {str(tmp_path)!r})\nimport swallows\nprint('not reached')")
    assert (done.returncode, done.stdout, done.stderr) == (Exit.ABORTED, "", "")


def interrupted_at(
    moment: str, number: signal.Signals, *argv: str
) -> "subprocess.CompletedProcess[str]":
    """Return what becomes of a command that gets a signal once it has read the module `moment`."""
    said = ""
    with Child(
        [sys.executable, "-X", "importtime", *argv],
        env=unmeasured(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:  # one when a module is read
            if line.split("|")[-1].strip() == moment:
                process.send_signal(number)
            said += "" if line.startswith("import time:") else line
        printed = process.stdout.read()
    return subprocess.CompletedProcess(argv, process.returncode, printed, said)


@pytest.mark.parametrize("moment", ["tyro", "trainer.config.experiment", "torch._C"])
def test_ctrl_c_while_a_command_is_imported_is_quiet(moment: str) -> None:
    left = interrupted_at(moment, signal.SIGINT, "-m", "trainer", "eval", "nowhere")
    assert (left.returncode, left.stdout, left.stderr) == (Exit.ABORTED, "", "")


@pytest.mark.parametrize("moment", ["torch._utils", "torch._C", "deepspeed.git_version_info"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, Exit.ABORTED), (signal.SIGTERM, Exit.REQUEUE)]
)
def test_a_signal_while_a_training_is_imported_leaves_its_code_and_nothing_else(
    moment: str, number: signal.Signals, code: Exit, trained: Path, corpus: Path
) -> None:
    before = contents(trained)
    argv = Case(trained, flags=["--train.max-steps", "9", "--allow-change", "train.max_steps"])
    left = interrupted_at(moment, number, "launch/train.py", *argv.argv(corpus))
    assert left.returncode == code
    told = f"interrupted by {number.name} before anything was trained\n"
    assert left.stderr == ("" if number == signal.SIGINT else told)
    assert contents(trained) == before


def test_an_interrupted_preparation_leaves_nothing(tmp_path: Path) -> None:
    with Child(
        [sys.executable, "-m", "trainer", "prepare", "--train", "-", "--out", str(tmp_path / "c")],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=unmeasured(),
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"a b c\n" * 100_000)  # more than a pipe holds: it is being read
        process.stdin.flush()
        assert os.listdir(tmp_path)
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
    assert (process.returncode, said) == (Exit.TERMINATED, b"")
    assert not os.listdir(tmp_path)


#: Another thread is given the signal while the main one reads a pipe, as if it had just begun to.
READS = """
import threading, time
reading, writing = os.pipe()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
def send():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    time.sleep(0.2)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
threading.Thread(target=send).start()
try: os.read(reading, 1)
except KeyboardInterrupt: print(interrupts.exit_code)
interrupts.close()
"""


def test_a_read_that_waits_is_ended_by_a_signal_that_came_just_before_it() -> None:
    done = ended(READS)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{Exit.TERMINATED:d}\n", "")
