"""Ending a command on a signal: by an exception, so that it leaves nothing half made behind.

Training, which has something to save, uses `trainer.training.ending.stopping` instead.
"""

import math
import signal
import threading
import time
from types import FrameType

from trainer.training.ending.signals import SignalListener, leave

#: Seconds that a command has to clean up after a signal other than Ctrl-C.
GRACE_S = 10.0
#: Seconds until the main thread is woken again, if it has not handled a signal yet.
WAKE_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: What wakes the main thread from a call that waits: nothing else means anything by it.
_WAKING = signal.SIGURG


class Interrupts:
    """A handler that turns a signal into an exception, once; ignored signals stay ignored."""

    def __init__(self) -> None:
        """Make a handler that no signal has reached."""
        self.exit_code: int | None = None
        """The exit code that a shell shows for the signal; None before a signal."""
        self._n_heard = 0
        self._listener: SignalListener | None = None

    def install(self) -> None:
        """Handle Ctrl-C, SIGTERM and SIGHUP; main thread only."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._raise)
        signal.signal(_WAKING, _do_nothing)
        self._listener = SignalListener(self._hear)

    def close(self) -> None:
        """Ignore signals from now on, since all is done; main thread only."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self.exit_code is not None or _is_importing(frame):
            leave(128 + number)
        self.exit_code = 128 + number
        raise KeyboardInterrupt

    def _hear(self, number: int) -> None:
        """Handle a signal in the listener's thread, which goes on listening."""
        if number == _WAKING:
            return
        self._n_heard += 1
        if self._n_heard > 1:
            leave(128 + number)
        threading.Thread(target=self._see_to, args=(number,), name="ending", daemon=True).start()

    def _see_to(self, number: int) -> None:
        """Wake the main thread until it handles a signal; end the process if it does not clean up.

        A signal that arrives just before the main thread calls a function that waits, such as a
        read, does not end that call: Python's handler would run after it.
        """
        main = threading.main_thread().ident
        assert main is not None
        end = time.monotonic() + (GRACE_S if number != signal.SIGINT else math.inf)
        while self.exit_code is None and time.monotonic() < end:
            signal.pthread_kill(main, _WAKING)
            time.sleep(WAKE_S)
        if number != signal.SIGINT:
            time.sleep(max(0.0, end - time.monotonic()))
            leave(128 + number)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Handle the signal that wakes the main thread."""


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether a module is being imported, whose code may swallow exceptions."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
