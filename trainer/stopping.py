"""Requests to stop: signals, the STOP file, the time limit, Ctrl-C. Noticed here, acted on later.

A handler only notes the request; the loop agrees on it between ranks at a step's border, saves a
checkpoint and leaves. The larger code wins where ranks were asked different things.
"""

import os
import signal
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import FrameType

from trainer.errors import Exit

STOP_FILE = "STOP"
#: Seconds between looks for it: each may cost a round trip to a file server.
LOOK_S = 0.25
_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class Wish(IntEnum):
    """What is asked of the run; a user's stop outranks a requeue."""

    NONE = 0
    REQUEUE = 1
    STOP = 2


class StopRequests:
    """Collects this process's requests; `poll` tells the strongest so far."""

    def __init__(
        self, run_dir: Path, *, time_limit_s: float | None, watches_file: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """The clock of the time limit starts now; one rank watches the STOP file for all."""
        self._file = run_dir / STOP_FILE if watches_file else None
        self._clock, self._next_look = clock, clock()
        self._deadline = None if time_limit_s is None else clock() + time_limit_s
        self.wish, self.reason = Wish.NONE, ""

    def install(self) -> None:
        """Take SIGTERM, SIGUSR2 and SIGINT; main thread only."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)

    def poll(self) -> Wish:
        """The strongest request so far; a STOP file is noticed within `LOOK_S`."""
        now = self._clock()
        if self._file is not None and now >= self._next_look:
            self._next_look = now + LOOK_S
            if self._file.exists():
                self._want(Wish.STOP, f"{STOP_FILE} file")
        if self._deadline is not None and now > self._deadline:
            self._want(Wish.REQUEUE, "time limit")
        return self.wish

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT:
            if self.wish is Wish.STOP:
                os._exit(Exit.ABORTED)  # the second Ctrl-C: the user does not want to wait
            self._want(Wish.STOP, "Ctrl-C")
        else:
            self._want(Wish.REQUEUE, signal.Signals(number).name)

    def _want(self, wish: Wish, reason: str) -> None:
        if wish > self.wish:
            self.wish, self.reason = wish, reason


def ignore_requests() -> None:
    """Let the signals pass, for all is saved: Python gives them back to the system as it ends."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
