"""However a run ends it says so, keeps what it trained, and goes on as if nothing had been."""

import fcntl
import os
import pty
import signal
import sys
import termios
from pathlib import Path

import pytest
from child import Child
from training import ROOT, Case, checkpoint_hashes, environment, events, losses, run_cases

from trainer.errors import Exit
from trainer.track.run_files.status import Status, read_status

MAX_STEPS = 40
FLAGS = [
    "--train.max-steps",
    str(MAX_STEPS),
    "--checkpoint.interval-steps",
    "3",
    "--model.dropout",
    "0.1",
    "--checkpoint.keep-last",
    "99",
]
#: What asks, on which rank, and before which look: the first is before the first step.
ASKED = [
    ("SIGTERM", 0, 1),
    ("SIGHUP", 1, 4),
    ("SIGUSR1", 0, 4),
    ("SIGUSR2", 1, 4),
    ("SIGINT", 1, 4),
    ("SIGHUP", 0, 1),
    ("STOP", 0, 4),
    ("SIGTERM", 0, 4),
    ("SIGINT", 0, 1),
]
BY_USER = ("SIGINT", "STOP")
REASONS = {"SIGINT": "Ctrl-C", "STOP": "STOP file"}


@pytest.fixture(scope="module")
def cases(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Return attempts at one run on two ranks, each ended in another way, the last by its end.

    The first run of all is another, which nobody disturbs.
    """
    folder = tmp_path_factory.mktemp("endings")
    run_dir = folder / "disturbed"
    cases = [Case(folder / "undisturbed", flags=FLAGS)]
    for by, rank, look in ASKED:
        ends = Exit.STOPPED if by in BY_USER else Exit.REQUEUE
        cases.append(Case(run_dir, flags=FLAGS, asked=(by, rank, look), ends=ends))
    limited = [*FLAGS, "--limits.time-limit-s", "0.001"]
    cases += [Case(run_dir, flags=limited, ends=Exit.REQUEUE), Case(run_dir, flags=FLAGS)]
    run_cases(cases, corpus=corpus, n_ranks=2)
    return cases


def test_every_ending_says_how_the_run_ended_and_why(cases: list[Case]) -> None:
    told = [REASONS.get(by, by) for by, _, _ in ASKED] + ["time limit"]
    for attempt, (case, reason) in enumerate(zip(cases[1:-1], told, strict=True), start=1):
        status = case.left["status"]
        state = "stopped" if case.ends is Exit.STOPPED else "requeue"
        assert (status["state"], status["exit_code"]) == (state, case.ends), reason
        assert status["attempt"] == attempt
        assert status["reason"] == reason
    last = cases[-1].left["status"]
    assert (last["state"], last["step"]) == ("done", MAX_STEPS)


def test_every_ending_leaves_whole_checkpoints_and_nothing_else(cases: list[Case]) -> None:
    for case in cases:
        step, names = case.left["status"]["step"], case.left["checkpoints"]
        if step == 0:  # nothing was trained
            assert names == []
            continue
        assert case.left["newest whole"] == f"step-{step:08d}"
        assert set(names) - {"latest", "best"} == {n for n in names if n.startswith("step-")}


def test_a_request_before_the_first_step_is_not_made_to_wait_for_it(cases: list[Case]) -> None:
    steps = [case.left["status"]["step"] for case in cases[1:]]
    looks = [look for _, _, look in ASKED] + [1]
    before = 0
    for step, look in zip(steps, looks, strict=False):
        assert step == before if look == 1 else before < step < MAX_STEPS
        before = step


def test_a_run_that_was_ended_in_every_way_ends_as_one_that_was_not(cases: list[Case]) -> None:
    undisturbed, disturbed = cases[0].run_dir, cases[-1].run_dir
    assert losses(disturbed) == losses(undisturbed)
    hashes = checkpoint_hashes(disturbed, MAX_STEPS)
    assert hashes == checkpoint_hashes(undisturbed, MAX_STEPS)
    assert len(events(disturbed, "stop")) == len(ASKED) + 2


def close_terminal_at(step: int, case: Case, corpus: Path, *, nohup: bool) -> int:
    """Train in a terminal that is closed at that step; returns the exit code."""
    terminal, inner = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with Child(
        [sys.executable, str(ROOT / "launch" / "train.py"), *case.argv(corpus)],
        env=environment(TERM="xterm"),
        start_new_session=True,
        preexec_fn=take_terminal,
        stdin=inner,
        stdout=inner,
        stderr=inner,
    ) as process:
        os.close(inner)
        said = ""
        while f"step {step}/" not in said:
            said += os.read(terminal, 1 << 16).decode(errors="replace")
        os.close(terminal)
    return process.returncode


def ended(case: Case) -> Status:
    status = read_status(case.run_dir)
    assert status is not None
    return status


def test_a_terminal_that_closes_asks_for_a_requeue_and_under_nohup_for_nothing(
    corpus: Path, tmp_path: Path
) -> None:
    """Neither what is said there nor the progress bar, which nothing can take, stops a run."""
    case = Case(tmp_path / "run", flags=["--train.max-steps", "60"])
    assert close_terminal_at(10, case, corpus, nohup=False) == Exit.REQUEUE
    first = ended(case)
    assert (first.state, first.reason) == ("requeue", "SIGHUP")
    assert close_terminal_at(first.step + 10, case, corpus, nohup=True) == Exit.DONE
    assert (ended(case).state, ended(case).step) == ("done", 60)
    assert list(losses(case.run_dir)) == list(range(1, 61))
