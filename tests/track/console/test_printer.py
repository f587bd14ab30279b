"""What a run says to people is always in the same words and the same order."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.track.console.logs import close_logging, setup_logging
from trainer.track.console.printer import Console


@pytest.fixture(autouse=True)
def _restore_logging():
    level = logging.getLogger("trainer").level
    yield
    close_logging()
    logging.getLogger("trainer").setLevel(level)


def test_the_last_step_is_later_by_the_steps_that_were_skipped(caplog):
    caplog.set_level(logging.INFO, logger="trainer")
    console = Console(max_steps=100)
    console.log({}, step=100, update=97)
    console.log({"valid/loss": 1.0}, step=100, update=97, part="valid")
    assert caplog.messages[0].startswith("step 100/103")
    assert caplog.messages[1] == "step 100/103 | valid | loss 1.0000"


def test_rank_0_informs_others_only_warn_and_every_rank_has_its_file(tmp_path, monkeypatch):
    logger = logging.getLogger("trainer.somewhere")
    said = {}
    for rank in (0, 1):
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        setup_logging(rank, log_file=tmp_path / "logs" / f"rank-{rank:05d}.log")
        logger.info("hello")
        logger.warning("beware")
        said[rank] = sys.stderr.getvalue()
        close_logging()
        monkeypatch.undo()
    assert [line[8:] for line in said[0].splitlines()] == [" [0] hello", " [0] warning: beware"]
    assert [line[8:] for line in said[1].splitlines()] == [" [1] warning: beware"]
    in_file = (tmp_path / "logs" / "rank-00001.log").read_text().splitlines()
    assert [line[8:] for line in in_file] == [" [1] hello", " [1] warning: beware"]


RUN = """
import logging, sys
from trainer.track.console.eta import Pause
from trainer.track.console.logs import setup_logging
from trainer.track.console.printer import Console
setup_logging(0)
console = Console(max_steps=3, pauses={"validating": Pause(2, at_end=True)})
for step in (1, 2, 3):
    console.log({"train/loss": 1.0}, step=step, update=step)
    with console.pause("validating", step=step, update=step) as on_share:
        on_share(0.25)
        console._bar and console._bar.refresh()
logging.getLogger("trainer").warning(" ".join(map(str, range(60))))
console.sample("to be " * 40, step=3)
console.close()
"""


def test_without_a_terminal_there_are_only_whole_lines():
    shown = subprocess.run([sys.executable, "-c", RUN], check=True, capture_output=True, text=True)
    assert shown.stdout == ""
    lines = [line[13:] for line in shown.stderr.splitlines()]
    assert [line[:22] for line in lines[:3]] == [f"step {n}/3 | loss 1.0000" for n in (1, 2, 3)]
    assert lines[3:] == [
        f"warning: {' '.join(map(str, range(60)))}",
        f"sample at step 3: {'to be ' * 40}",
    ]


def shown_on_a_terminal(columns: int) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", RUN],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": str(columns)},
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    return shown.decode()


@pytest.mark.parametrize("columns", [60, 100])
def test_a_terminal_shows_lines_that_fit_above_bars_that_are_gone_at_the_end(columns):
    shown = shown_on_a_terminal(columns)
    uncoloured = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    lines = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]|\r", "\n", uncoloured).splitlines()
    assert max(map(len, lines)) <= columns
    assert any("step 3/3 | loss 1.0000" in line for line in lines)
    training = [line for line in lines if line.startswith("training")]
    validating = [line for line in lines if line.startswith("validating")]
    assert any("━" in line and "100.0%" in line for line in training)
    assert any("━" in line and "25.0%" in line for line in validating)
    told = [line[13:] for line in lines if line[8:].startswith(" [0] ") or line[:13].isspace()]
    assert " ".join(map(str, range(60))) in " ".join(" ".join(told).split())
    sample = " ".join(line[2:] for line in told if line.startswith("| "))
    assert sample.split() == ["to", "be"] * 40
    assert shown.count("\x1b[?25h") == shown.count("\x1b[?25l")  # the cursor is there again
    assert shown.rstrip("\r\n").endswith("\x1b[2K")  # where the bars were


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_that_cannot_be_written_says_so_once_and_costs_no_line(capsys):
    setup_logging(0, log_file=Path("/dev/full"))
    try:
        for number in range(20):
            logging.getLogger("trainer").info("line %d", number)
    finally:
        close_logging()
    said = capsys.readouterr().err
    assert [f"line {number}" in said for number in range(20)] == [True] * 20
    assert said.count("/dev/full cannot be written: No space left on device") == 1
    assert "Traceback" not in said
