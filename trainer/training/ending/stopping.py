"""Requests to stop: signals, the STOP file, the time limit, Ctrl-C, and a launcher that is gone.

While a process holds nothing that could be saved, a signal ends it at once. Later a handler only
notes the request. Between steps the loop agrees with all ranks on a request, saves a checkpoint and
leaves. If ranks received different requests, the one of the larger exit code wins.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import FrameType

from trainer.errors import Exit
from trainer.training.ending.signals import SignalListener, leave

STOP_FILE = "STOP"
#: Seconds between looks for the STOP file: each may cost a round trip to a file server.
LOOK_S = 0.25
#: Clusters send one of these before they kill; a closed terminal sends SIGHUP.
_REQUEUES = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


class Wish(IntEnum):
    """A request to the run; a user's stop outranks a requeue."""

    NONE = 0
    REQUEUE = 1
    STOP = 2


class StopRequests:
    """A collector of this process's requests; `poll` returns the strongest so far."""

    def __init__(self, *, speaks: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock of the time limit; `speaks` says whether this process may print."""
        self._speaks = speaks
        self._clock, self._began, self._next_look = clock, clock(), clock()
        self._file: Path | None = None
        self._deadline: float | None = None
        self._has_something_to_save = False
        self._says = threading.Lock()
        self._n_noted = self._n_heard = 0  # presses of Ctrl-C
        self._listener: SignalListener | None = None
        self.wish, self.reason = Wish.NONE, ""

    def install(self) -> None:
        """Handle SIGTERM, SIGUSR1, SIGUSR2, SIGHUP and SIGINT; main thread only.

        A SIGHUP that is ignored, as under nohup, stays ignored. Until `hold` is called each signal
        ends the process: Ctrl-C with `Exit.ABORTED`, the others with `Exit.REQUEUE`.
        """
        for number in _taken():
            signal.signal(number, self._note)
        self._listener = SignalListener(self._hear)

    def hold(self, run_dir: Path, *, time_limit_s: float | None, watches_file: bool) -> None:
        """Only note requests from now on, since the run may have something to save.

        The time limit counts from the start of the process. One rank watches the STOP file for all.
        """
        self._file = run_dir / STOP_FILE if watches_file else None
        self._deadline = None if time_limit_s is None else self._began + time_limit_s
        self._has_something_to_save = True

    @property
    def holds(self) -> bool:
        """Return whether the run may have something to save, see `hold`."""
        return self._has_something_to_save

    def close(self) -> None:
        """Ignore requests from now on, since all is saved or refused; main thread only.

        Otherwise Python restores the system's handlers as it ends, and a signal would kill it.
        """
        for number in _taken():
            signal.signal(number, signal.SIG_IGN)
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def poll(self) -> Wish:
        """Return the strongest request so far; a STOP file is noticed within `LOOK_S`."""
        now = self._clock()
        if self._file is not None and now >= self._next_look:
            self._next_look = now + LOOK_S
            if self._file.exists():
                self.want(Wish.STOP, f"{STOP_FILE} file")
        if self._deadline is not None and now > self._deadline:
            self.want(Wish.REQUEUE, "time limit")
        return self.wish

    def launcher_ended(self, reason: str) -> None:
        """Ask for a requeue since the launcher is gone; any thread may call this.

        A process that holds nothing ends at once, as it does for a signal.
        """
        self.want(Wish.REQUEUE, reason)
        if not self._has_something_to_save:
            self._say_once(f"{reason}, before anything was trained")
            leave(Exit.REQUEUE)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal in the main thread."""
        del frame
        if number != signal.SIGINT:
            self.want(Wish.REQUEUE, signal.Signals(number).name)
        else:
            self._n_noted += 1
            self.want(Wish.STOP, "Ctrl-C")
        self._leave_if_due(number, self._n_noted)

    def _hear(self, number: int) -> None:
        """Handle a signal in the listener's thread, which only ends the process or does nothing."""
        self._n_heard += number == signal.SIGINT
        self._leave_if_due(number, self._n_heard)

    def _leave_if_due(self, number: int, n_interrupts: int) -> None:
        if number == signal.SIGINT:
            if n_interrupts > 1 or not self._has_something_to_save:
                leave(Exit.ABORTED)  # a user who presses twice does not want to wait
        elif not self._has_something_to_save:
            self._say_once(
                f"interrupted by {signal.Signals(number).name} before anything was trained"
            )
            leave(Exit.REQUEUE)

    def _say_once(self, told: str) -> None:
        """Print a line once, even if both threads come here, or one of them twice."""
        if not self._says.acquire(blocking=False):
            time.sleep(0.1)  # the first one to come ends the process meanwhile
        elif self._speaks:
            with contextlib.suppress(OSError):
                os.write(2, f"{told}\n".encode())

    def want(self, wish: Wish, reason: str) -> None:
        """Note a request; of several the strongest counts, and of equal ones the first."""
        if wish > self.wish:
            self.wish, self.reason = wish, reason


def _taken() -> list[signal.Signals]:
    is_taken = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGINT, *_REQUEUES[: None if is_taken else -1]]
