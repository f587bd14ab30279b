"""What a run says to people is always in the same words and the same order."""

import io
import logging
import math
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.track.console.lines import console_line
from trainer.track.console.logs import close_logging, setup_logging
from trainer.track.console.printer import Console
from trainer.wording import human_count, human_seconds


@pytest.fixture(autouse=True)
def _restore_logging():
    level = logging.getLogger("trainer").level
    yield
    close_logging()
    logging.getLogger("trainer").setLevel(level)


METRICS = {
    "memory/peak_gib": 18.2,
    "throughput/tokens_per_s": 412_345.0,
    "optim/grad_norm": 0.2401,
    "optim/lr": 2.5e-4,
    "train/ppl": 74.604,
    "train/loss": 4.31214,
    "something/else": 1.0,
}


def test_the_line_is_the_one_promised():
    line = console_line(METRICS, step=1200, max_steps=200_000, eta_s=3 * 3600 + 12 * 60)
    assert line == (
        "step 1,200/200,000 | loss 4.3121 | ppl 74.60 | lr 2.50e-04 | grad_norm 0.24 | "
        "412k tok/s | mem 18.2 GiB | eta 3h12m"
    )


def test_what_is_not_known_is_left_out_and_an_evaluation_says_that_it_is_one():
    values = {"valid/loss": 3.2, "valid/ppl": 24.53, "valid/bpc": None, "train/loss": 9.0}
    line = console_line(values, step=10, max_steps=20, part="valid")
    assert line == "step 10/20 | valid | loss 3.2000 | ppl 24.53"


def test_a_diverged_loss_still_makes_a_short_line():
    values = {"train/loss": math.nan, "train/ppl": 5e21, "optim/grad_norm": math.inf}
    values["throughput/tokens_per_s"] = math.inf
    line = console_line(values, step=1, max_steps=2, eta_s=math.inf)
    assert line == "step 1/2 | loss nan | ppl 5.00e+21 | grad_norm inf | inf tok/s | eta ?"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0"),
        (950, "950"),
        (999.6, "1k"),
        (5300, "5.3k"),
        (412_345, "412k"),
        (999_600, "1M"),
        (1_740_000, "1.74M"),
        (2.5e9, "2.5G"),
        (7e15, "7e+03T"),
    ],
)
def test_counts_have_three_digits_and_a_unit(count, said):
    assert human_count(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s"),
        (45.4, "45s"),
        (59.6, "1m00s"),
        (750, "12m30s"),
        (11_520, "3h12m"),
        (3600 * 24 * 2 + 3600 * 4 + 59, "2d04h"),
    ],
)
def test_durations_have_two_units(seconds, said):
    assert human_seconds(seconds) == said


def test_the_eta_is_the_rest_at_the_speed_so_far():
    console = Console(max_steps=100, update=40, time_s=0.0)  # resumed: 40 are not this speed's
    assert console.eta_s is None
    console.log({}, step=50, update=50, time_s=20.0)
    assert console.eta_s == 100.0
    console.log({}, step=100, update=100, time_s=120.0)
    assert console.eta_s == 0.0


def test_a_rollback_starts_the_eta_anew():
    console = Console(max_steps=100, time_s=0.0)
    console.log({}, step=10, update=10, time_s=10.0)
    console.log({}, step=5, update=5, time_s=20.0)
    assert console.eta_s is None
    console.log({}, step=10, update=10, time_s=25.0)
    assert console.eta_s == 90.0


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
import sys
from trainer.track.console.logs import setup_logging
from trainer.track.console.printer import Console
setup_logging(0)
console = Console(max_steps=3)
for step in (1, 2, 3):
    console.log({"train/loss": 1.0}, step=step, update=step)
console.close()
"""


def test_without_a_terminal_there_are_only_lines():
    shown = subprocess.run([sys.executable, "-c", RUN], check=True, capture_output=True, text=True)
    assert shown.stdout == ""
    assert [line[13:42] for line in shown.stderr.splitlines()] == [
        f"step {step}/3 | loss 1.0000 | eta 0s"[:29] for step in (1, 2, 3)
    ]


def test_a_terminal_shows_the_lines_above_a_bar():
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", RUN],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
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
    assert "step 3/3 | loss 1.0000" in shown.decode()
    assert "━" in shown.decode()
    assert "100.0 %" in shown.decode()


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
