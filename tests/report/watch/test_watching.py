"""A run is shown as it stands, alive, dead or mute: on any terminal, in lines, as JSON."""

import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from reported_runs import NOW, make_imported, make_run
from rich.cells import cell_len
from rich.console import Console
from training import ROOT, unmeasured
from txl_command import exit_code

from trainer.errors import Exit
from trainer.report.watch.canvas import dots, stars
from trainer.report.watch.follower import Follower
from trainer.report.watch.screen import screen
from trainer.report.watch.snapshot import snapshot
from trainer.report.watch.watching import take, watch
from trainer.track.record.metrics import MetricsWriter
from trainer.track.run_files.status import Status, write_status

#: A run that says it trains, and is then stopped by itself, as by SIGSTOP from outside.
STOPPED = """
import os, signal, sys, time
from pathlib import Path
from trainer.track.run_files.status import Status, write_status
write_status(Path(sys.argv[1]), Status.of_this_process(
    state="running", step=61, update=59, max_steps=1000, attempt=2, eta_s=90,
    heartbeat=time.time() - 125,
))
os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.fixture
def stopped(tmp_path: Path) -> "subprocess.Popen[bytes]":
    """Yield a process whose run, in `tmp_path`, has been mute for two minutes."""
    run = make_run(tmp_path / "run")
    writer = MetricsWriter(run, attempt=2)
    text = "once \x1b[31m upon\u202e a time\n" * 30
    writer.write("sample", step=61, update=59, n_tokens=61, values={"sample/text": text})
    writer.close()
    process = subprocess.Popen([sys.executable, "-c", STOPPED, str(run)], cwd=ROOT)
    os.waitpid(process.pid, os.WUNTRACED)
    yield process  # type: ignore[misc]
    process.kill()
    process.wait()


def seen_in_a_terminal(run: Path, *, columns: int, until: str) -> tuple[str, int]:
    """Return what `txl watch` shows on a terminal, and its exit code after Ctrl-C."""
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    command = [sys.executable, "-m", "txl_trainer", "watch", str(run), "--interval", "0.1"]
    env = unmeasured() | {"TERM": "xterm-256color", "PYTHONUTF8": "1"}
    for size in ("COLUMNS", "LINES"):  # where tests run side by side, they say another one
        env.pop(size, None)
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
    )
    os.close(theirs)
    shown = b""
    for _ in range(200):
        shown += os.read(own, 65_536)
        if shown.count(until.encode()) > 1 and b"sample at" in shown:  # a whole screen, at least
            break
    process.send_signal(signal.SIGINT)
    try:
        while part := os.read(own, 65_536):
            shown += part
    except OSError:
        pass  # the terminal's other end is closed
    os.close(own)
    return shown.decode(errors="replace"), process.wait()


@pytest.mark.parametrize("columns", [80, 200])
def test_a_stopped_process_is_seen_by_its_missing_heartbeat_at_any_width(
    stopped: "subprocess.Popen[bytes]", tmp_path: Path, columns: int
) -> None:
    shown, code = seen_in_a_terminal(tmp_path / "run", columns=columns, until="no heartbeat for 2m")
    assert code == 130
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    lines = [line for line in text.replace("\r", "\n").split("\n") if line]
    assert max(map(cell_len, lines)) <= columns
    assert any(cell_len(line) > columns - 10 for line in lines)  # the bar fills the width
    assert "step 61/1,002" in text
    assert "\u202e" not in text
    assert r"once \x1b[31m upon\u202e a time" in text
    assert any("\u2801" <= c <= "\u28ff" for c in text)


def test_a_living_run_tells_its_numbers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    status = Status.of_this_process(
        state="running", step=61, update=59, max_steps=1000, attempt=2, eta_s=90
    )
    write_status(run, status)
    shot = take(run, now=status.heartbeat + 3)
    assert (shot.is_alive, shot.heartbeat_age_s, shot.missing_s) == (True, 3, None)
    assert (shot.step, shot.last_step, shot.eta_s) == (61, 1002, 87)
    assert (shot.loss, shot.ppl) == (2.0, pytest.approx(7.389056))
    assert (shot.valid_loss, shot.valid_step, shot.best_loss, shot.best_step) == (2.5, 60, 2.0, 40)
    assert shot.events == ((60, "resume", "training goes on from step 60"),)
    assert take(run, now=status.heartbeat + 600).missing_s == 600
    assert take(run, now=status.heartbeat + 600).eta_s is None


def test_the_heartbeat_of_a_slow_run_may_be_old(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, attempt=1)
    for step in range(1, 4):
        writer.write("train", step=step, update=step, n_tokens=step, values={"train/loss": 3.0})
    writer.close()
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    slow = (json.dumps(r | {"time": 1000.0 * r["step"]}) + "\n" for r in lines)
    (tmp_path / "metrics.jsonl").write_text("".join(slow))
    status = Status.of_this_process(state="running", step=3, update=3, max_steps=9, attempt=1)
    write_status(tmp_path, status)
    assert take(tmp_path, now=status.heartbeat + 900).missing_s is None
    assert take(tmp_path, now=status.heartbeat + 6000).missing_s == 6000


def test_a_dead_run_is_said_to_be_dead(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    gone = Status.of_this_process(
        state="running", step=61, update=59, max_steps=1000, attempt=2
    ).model_copy(update={"begun": 1, "pid": (1 << 31) - 1})
    write_status(run, gone)
    shot = take(run, now=NOW)
    assert (shot.is_alive, shot.eta_s, shot.missing_s) == (False, None, None)
    assert shot.state.startswith("dead, was running")


def console(file: io.StringIO, **how: object) -> Console:
    return Console(file=file, width=80, **how)  # type: ignore[arg-type]


def test_without_a_terminal_a_line_is_printed_whenever_something_is_new(tmp_path: Path) -> None:
    run, file, waits = make_run(tmp_path / "run"), io.StringIO(), list[float]()

    def write(step: int, state: str = "running") -> None:
        status = Status.of_this_process(
            state=state, step=step, update=step - 2, max_steps=1000, attempt=2
        )
        write_status(run, status)

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            write(70)
        if len(waits) == 5:
            write(71, "done")

    write(61)
    watch(run, interval_s=0.5, console=console(file), wait=wait)
    lines = file.getvalue().splitlines()
    assert [line.split(" | ")[1] for line in lines] == [
        "step 61/1,002",
        "step 70/1,002",
        "step 71/1,002",
    ]
    assert lines[-1].startswith("run: done | step 71")
    assert waits == [0.5] * 5
    assert all(line.isprintable() for line in lines)


def test_lines_remind_of_a_missing_heartbeat_each_minute(tmp_path: Path) -> None:
    run, file = make_run(tmp_path / "run"), io.StringIO()
    status = Status.of_this_process(state="running", step=61, update=59, max_steps=1000, attempt=2)
    write_status(run, status)
    clock = iter([*(status.heartbeat + s for s in range(0, 200, 10)), status.heartbeat + 200])

    def wait(seconds: float) -> None:
        if next(clock_left, None) is None:
            write_status(run, status.model_copy(update={"state": "stopped"}))

    clock_left = iter(range(18))
    watch(run, interval_s=1, console=console(file), wait=wait, clock=lambda: next(clock))
    told = [line.split(" | ")[-1] for line in file.getvalue().splitlines()]
    assert [text.partition(" (")[0] for text in told] == [
        "heartbeat 0s ago",
        "no heartbeat for 20s",
        "no heartbeat for 1m00s",
        "no heartbeat for 2m00s",
        "no heartbeat for 3m00s",
        "heartbeat 3m10s ago",
    ]


def test_json_is_one_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", state="done")
    assert exit_code(monkeypatch, "watch", run, "--json") == Exit.DONE
    values = json.loads(capsys.readouterr().out)
    assert (values["state"], values["step"], values["loss"]) == ("done", 61, 2.0)
    assert values["heartbeat_age_s"] is not None
    imported = make_imported(tmp_path / "old")
    assert take(imported, now=NOW).to_json()["loss"] is None


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["none"], "no run there"),
        (["."], "no run there"),
        (["run", "--interval", "0"], "is not between 0.1 and 3600 seconds"),
        (["broken"], "status.json is not a status"),
        (["newer", "--json"], "has schema 2, newer than the 1 known"),
    ],
)
def test_what_cannot_be_watched_is_refused_in_a_line(
    argv: list[str],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_run(tmp_path / "run", state="done")
    for name, file in (("broken", "status.json"), ("newer", "metrics.jsonl")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text('{"schema": 2}\n')
    monkeypatch.chdir(tmp_path)
    assert exit_code(monkeypatch, "watch", *argv) == Exit.BAD_INPUT
    told = capsys.readouterr().err
    assert why in told
    assert told.count("\n") == 1


def test_a_terminal_without_unicode_shows_ascii(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", state="done")
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    shown = Console(file=file, width=100, height=40, force_terminal=True)
    watch(run, interval_s=1, console=shown)
    file.flush()
    text = file.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "training loss" in text
    assert "*" in text


@pytest.mark.parametrize(("width", "height"), [(12, 5), (40, 24), (80, 24), (200, 60)])
def test_a_screen_fits_its_terminal(tmp_path: Path, width: int, height: int) -> None:
    run, long = make_run(tmp_path / ("long " * 20)), "中文 words " * 60
    writer = MetricsWriter(run, attempt=2)
    counters = {"step": 61, "update": 59, "n_tokens": 61}
    for number in range(9):
        writer.write("event", values={"event": f"e{number}", "reason": long}, **counters)
    writer.write("sample", values={"sample/text": long}, **counters)
    writer.close()
    status = Status(state="failed", step=61, update=59, max_steps=99, attempt=2, reason=long)
    write_status(run, status)
    history = Follower(run).look()
    shown = screen(
        snapshot(run, history, now=NOW), history, width=width, height=height, unicode=True
    )
    assert max(map(cell_len, shown.plain.split("\n"))) <= width
    assert shown.plain.count("\n") < max(height, 12)


def test_a_curve_of_dots_spans_its_values() -> None:
    x = np.arange(100.0)
    falling = dots(x, 100 - x, width=10, height=4)
    assert [len(line) for line in falling] == [10] * 4
    assert falling[0][0] != "\u2800"
    assert falling[0][-1] == falling[-1][0] == "\u2800"
    few = dots(np.array([0.0, 1.0, 2.0]), np.array([9.0, 1.0, 0.0]), width=10, height=4)
    assert all(any(line[at] != "\u2800" for line in few) for at in range(10)), "a line, no dots"
    assert sum(character != "\u2800" for line in few for character in line) < 20
    assert falling[-1][-1] != "\u2800"
    assert dots(np.array([1.0]), np.array([2.0]), width=3, height=2)[0][0] != "\u2800"
    spike = np.zeros(1000)
    spike[500] = 1
    assert any(c != "\u2800" for c in dots(np.arange(1000.0), spike, width=20, height=5)[0])
    assert stars([1.0, 2.0], width=4, height=2) == ["  **", "**  "]


def test_watching_starts_without_torch() -> None:
    code = "import sys; from trainer.commands.command_line import parse_command\n"
    code += "try: parse_command(['watch', 'none', '--json']).run()\nexcept Exception: pass\n"
    code += "print([m for m in ('torch', 'deepspeed', 'wandb', 'matplotlib') if m in sys.modules])"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert shown.stdout.strip() == "[]"
