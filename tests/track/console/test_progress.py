"""A long scoring says how far it is: a terminal shows a bar, a file gets few lines."""

import contextlib
import os
import pty
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import pytest

from trainer.track.console.progress import PLAIN_S, progress, working


def test_without_a_terminal_a_line_comes_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now_s = 0.0
    with progress("scoring\x1b[2J", total=256, clock=lambda: now_s) as advance:
        for _ in range(256):
            now_s += PLAIN_S / 64
            advance(1)
    out, err = capsys.readouterr()
    lines = [
        f"scoring\\x1b[2J: {share}%, {left} left"
        for share, left in ((25, "45s"), (50, "30s"), (75, "15s"))
    ]
    assert (out, err.splitlines()) == ("", lines)


def test_short_work_and_other_ranks_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for how in ({"clock": lambda: 0.0}, {"shows": False}, {"total": 0}):
        with progress("scoring", **{"total": 2, **how}) as advance:  # type: ignore[arg-type]
            advance(1)
            advance(1)
    assert capsys.readouterr() == ("", "")


def test_work_of_unknown_length_is_shown_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with working("reading a\x1b[2J [file]"):
        pass
    assert capsys.readouterr() == ("", "")
    shown = shown_on_a_terminal(monkeypatch, lambda: working("reading a\x1b[2J [file]"))
    assert "reading a\\x1b[2J [file]" in shown
    assert "\x1b[?25h" in shown


def test_a_terminal_shows_a_bar_and_is_given_back_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    def half() -> AbstractContextManager[object]:
        stack = ExitStack()
        stack.enter_context(progress("scoring [test]", total=1))(0.5)
        return stack

    shown = shown_on_a_terminal(monkeypatch, half)
    assert "scoring [test]" in shown
    assert "50%" in shown
    assert "\x1b[?25h" in shown  # the cursor is there again


def shown_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, show: Callable[[], AbstractContextManager[object]]
) -> str:
    """Return what a terminal gets while the block of `show` is entered and left."""
    reading, writing = pty.openpty()
    with os.fdopen(writing, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        patch.setenv("TERM", "xterm")
        with show():
            pass
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(reading, 1 << 16):
            shown += part
    os.close(reading)
    return shown.decode()
