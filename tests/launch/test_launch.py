"""Every launcher runs the same training, and every way of stopping leaves word of itself."""

import math
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from child import Child
from training import ROOT, Case, environment, events, losses, unmeasured

from trainer.errors import Exit
from trainer.track.run_files.status import read_status

TRAIN = str(ROOT / "launch" / "train.py")
BIN = Path(sys.executable).parent
#: Without dropout, which is drawn per rank, one rank computes what two do.
FLAGS = ["--model.dropout", "0", "--model.norm", "post", "--train.max-steps", "300"]


class Ended(NamedTuple):
    """The end of a job: its launcher's exit code, and all it said."""

    code: int
    said: str


def run_job(
    launcher: list[str],
    argv: list[str],
    *,
    at: str = "never",
    act: Callable[["subprocess.Popen[str]"], None] = lambda process: None,
) -> Ended:
    """Run a job as a terminal would, in a process group of its own, to the end of its last process.

    The first time it says `at`, `act` is called.
    """
    with Child(
        [*launcher, *argv],
        env=environment() if at == "never" else unmeasured(),
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        said = ""
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if at in line and at not in said:
                    act(process)
                said += line
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return Ended(process.returncode, said)


def insist(process: "subprocess.Popen[str]") -> None:
    """Press Ctrl-C until it leaves."""
    while process.poll() is None:
        process.send_signal(signal.SIGINT)


def ending(run_dir: Path) -> tuple[str, int | None, str | None]:
    """Return state, exit code and reason of the run, as a wrapper reads them."""
    status = read_status(run_dir)
    assert status is not None
    return status.state, status.exit_code, status.reason


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def under_python(corpus, tmp_path_factory):
    """Stop runs by SIGUSR2, the STOP file, two Ctrl-C and the time limit, then leave one alone."""
    case = Case(tmp_path_factory.mktemp("python") / "run", flags=FLAGS)
    argv, launcher = case.argv(corpus), [sys.executable, TRAIN]
    ended, endings = [], []
    for at, act, flags in (
        ("step 10/300", lambda process: process.send_signal(signal.SIGUSR2), []),
        ("step 30/300", lambda process: (case.run_dir / "STOP").touch(), []),
        ("step 140/300", insist, []),
        ("never", lambda process: None, ["--limits.time-limit-s", "0.001"]),
        ("never", lambda process: None, []),
        ("never", lambda process: None, []),
    ):
        ended.append(run_job(launcher, [*argv, *flags], at=at, act=act))
        endings.append(ending(case.run_dir))
    return case.run_dir, ended, endings


def test_a_process_exits_with_the_code_of_why_it_stopped(under_python):
    _, ended, endings = under_python
    assert endings[:5] == [
        ("requeue", Exit.REQUEUE, "SIGUSR2"),
        ("stopped", Exit.STOPPED, "STOP file"),
        ("running", None, None),
        ("requeue", Exit.REQUEUE, "time limit"),
        ("done", Exit.DONE, None),
    ]
    codes = [code for _, code, _ in endings[:5]]
    codes[2] = Exit.ABORTED  # it left at once, and wrote nothing
    assert [code for code, _ in ended[:5]] == codes
    assert not any("Traceback" in said for _, said in ended)


def test_a_stop_file_that_was_obeyed_does_not_stop_the_next_attempt(under_python):
    run_dir, _, _ = under_python
    assert not (run_dir / "STOP").exists()
    assert len(events(run_dir, "resume")) == 4


def test_a_finished_run_says_its_result_and_is_left_as_it_is(under_python):
    run_dir, ended, endings = under_python
    assert ended[5].code == Exit.DONE
    assert f"loss {losses(run_dir)[300]:.4f}" in ended[5].said
    assert endings[5] == endings[4]
    assert len(events(run_dir, "stop")) == 4


@pytest.fixture(scope="module")
def under_torchrun(corpus, tmp_path_factory):
    """Train on two ranks: SIGTERM to the launcher alone, as clusters send it; then left alone."""
    case = Case(tmp_path_factory.mktemp("torchrun") / "run", flags=FLAGS)
    launcher = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node=2", TRAIN]
    stopped = run_job(
        launcher, case.argv(corpus), at="step 10/300", act=lambda process: process.terminate()
    )
    return case.run_dir, stopped, ending(case.run_dir), run_job(launcher, case.argv(corpus))


def test_torchrun_hands_sigterm_on_and_the_run_is_to_be_requeued(under_torchrun):
    run_dir, stopped, left, resumed = under_torchrun
    assert left == ("requeue", Exit.REQUEUE, "SIGTERM"), stopped.said
    assert stopped.code != 0
    assert resumed.code == 0, resumed.said
    assert ending(run_dir) == ("done", Exit.DONE, None)


@pytest.fixture(scope="module")
def under_deepspeed(corpus, tmp_path_factory):
    """Train on two ranks: SIGTERM to the launcher alone; Ctrl-C, as at a terminal; then left alone.

    A terminal sends it to all processes of a job.
    """
    case = Case(tmp_path_factory.mktemp("deepspeed") / "run", flags=FLAGS)
    port = f"--master_port={free_port()}"
    launcher = [str(BIN / "deepspeed"), "--num_gpus=2", port, TRAIN]
    stopped, left = [], []
    for at, act in (
        ("step 10/300", lambda process: process.terminate()),
        ("step 60/300", lambda process: os.killpg(process.pid, signal.SIGINT)),
    ):
        stopped.append(run_job(launcher, case.argv(corpus), at=at, act=act))
        left.append(ending(case.run_dir))
    return case.run_dir, stopped, left, run_job(launcher, case.argv(corpus))


def test_deepspeed_that_is_told_to_end_leaves_no_orphans_and_a_run_to_be_requeued(under_deepspeed):
    """`run_job` has waited for the last process that held its output."""
    _, stopped, left, _ = under_deepspeed
    state, code, reason = left[0]
    assert (state, code) == ("requeue", Exit.REQUEUE), stopped[0].said
    assert reason.startswith("the launcher deepspeed (process ")
    assert stopped[0].code == -signal.SIGTERM


def test_ctrl_c_under_deepspeed_saves_and_is_not_to_be_requeued(under_deepspeed):
    run_dir, stopped, left, resumed = under_deepspeed
    assert left[1] == ("stopped", Exit.STOPPED, "Ctrl-C"), stopped[1].said
    assert stopped[1].code != 0
    assert resumed.code == 0, resumed.said
    assert ending(run_dir) == ("done", Exit.DONE, None)


def test_every_launcher_gives_the_same_losses(under_python, under_torchrun, under_deepspeed):
    reference = losses(under_torchrun[0])
    assert list(reference) == list(range(1, 301))
    assert losses(under_deepspeed[0]) == reference
    one_rank = losses(under_python[0])
    assert list(one_rank) == list(reference)
    # Sums in another order differ in their last bits, and training makes more of it step by step.
    for step in range(1, 16):
        assert one_rank[step] == pytest.approx(reference[step], rel=1e-5), step


def test_machines_without_ssh_start_the_same_command_each(corpus, tmp_path):
    case = Case(tmp_path / "my run", flags=[*FLAGS, "--train.max-steps", "5"])
    hosts = tmp_path / "my hosts"
    hosts.write_text(
        "  first\tslots=1 # as `hostname` says it\n\nme@second.site.example  slots=1\n"
    )
    port = str(free_port())
    command = ["bash", str(ROOT / "launch" / "multi_node.sh"), str(hosts), *case.argv(corpus)]
    machines = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(NODE_RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
        )
        for rank in ("0", "1")
    ]
    said = [machine.communicate()[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "".join(said)
    assert "2 ranks" in said[0]
    assert list(losses(case.run_dir)) == [1, 2, 3, 4, 5]


def test_without_a_python_that_is_new_enough_it_says_so(tmp_path):
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "environment.sh", tmp_path / "launch")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    ended = subprocess.run(
        ["bash", "launch/environment.sh"],
        cwd=tmp_path,
        env=environment(PYTHON="false"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == Exit.BAD_INPUT
    assert ended.stderr.startswith("error: no Python 3.11 or newer found")
    assert not (tmp_path / ".venv").exists()


def test_a_model_that_only_counts_tokens_loses_their_entropy():
    entropy = runpy.run_path(str(ROOT / "launch" / "quickstart_result.py"))["entropy"]
    assert entropy(np.array([5, 5, 0, 5, 5])) == pytest.approx(math.log(4))
    assert entropy(np.array([3, 1])) == pytest.approx(math.log(4) - 0.75 * math.log(3))
