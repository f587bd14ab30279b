"""The command `txl` in this process, which it leaves as it was."""

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from trainer.commands.cli import main

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(NamedTuple):
    """The end of a command: what it left behind."""

    code: int
    out: str
    err: str


@contextmanager
def signals_kept() -> Iterator[None]:
    """Take signals as before, once the block has ended."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(monkeypatch: pytest.MonkeyPatch, *argv: object) -> int:
    """Return the exit code of a command of these words."""
    monkeypatch.setattr(sys, "argv", ["txl", *map(str, argv)])
    with signals_kept(), pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return int(ended.value.code)


def said_in(encoding: str, monkeypatch: pytest.MonkeyPatch, *argv: object) -> Ended:
    """Return what the command says on streams that know no more than `encoding`."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        code = exit_code(patch, *argv)
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined]
    return Ended(code, *texts)


def unread(monkeypatch: pytest.MonkeyPatch, *argv: object, buffering: int = -1) -> int:
    """Return how the command ends whose standard output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    with monkeypatch.context() as patch, open(writing, "wb", buffering) as pipe:
        patch.setattr(sys, "stdout", io.TextIOWrapper(pipe, write_through=buffering == 0))
        return exit_code(patch, *argv)
