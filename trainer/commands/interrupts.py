"""How a command ends that is asked to: by an exception, which leaves nothing half made behind.

Training, which has something to save, has `trainer.train.stopping`.
"""

import signal
import time
from types import FrameType

from trainer.train.signals import SignalListener, leave

#: Seconds that a command has to clean up after a signal other than Ctrl-C.
GRACE_S = 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Turns this process's signals into exceptions, once; those that are ignored stay ignored."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self.exit_code: int | None = None
        """What a shell says of a process that the signal ended; None before there was one."""
        self._n_heard = 0
        self._listener: SignalListener | None = None

    def install(self) -> None:
        """Take Ctrl-C, SIGTERM and SIGHUP; main thread only."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._raise)
        self._listener = SignalListener(self._hear)

    def close(self) -> None:
        """Ignore signals from now on: all is done; main thread only."""
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
        """Leave in a thread where the main one does not come to it, waiting for a peer perhaps."""
        self._n_heard += 1
        if self._n_heard > 1:
            leave(128 + number)
        if number != signal.SIGINT:
            time.sleep(GRACE_S)
            leave(128 + number)


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether a module is being read: its code or the importer's may swallow exceptions."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
