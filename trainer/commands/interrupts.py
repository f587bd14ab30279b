"""Ending a command on a signal: by an exception, so that it leaves nothing half made behind.

Training, which has something to save, uses `trainer.training.ending.stopping` instead.
"""

import signal
import time
from types import FrameType

from trainer.training.ending.signals import SignalListener, leave

#: Seconds that a command has to clean up after a signal other than Ctrl-C.
GRACE_S = 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
        """End the process from a thread if the main one cannot, for example waiting for a peer."""
        self._n_heard += 1
        if self._n_heard > 1:
            leave(128 + number)
        if number != signal.SIGINT:
            time.sleep(GRACE_S)
            leave(128 + number)


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether a module is being imported, whose code may swallow exceptions."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
