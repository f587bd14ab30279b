"""Signals received in a thread: at once, even while the main thread waits in C for its peers."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

#: Shows the cursor of a terminal again, which a progress bar hides.
_SHOW_CURSOR = b"\x1b[?25h\n"
#: What a handler may be set for: Ctrl-C, and what clusters and closed terminals send.
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
#: Held by the thread that ends the process, since a handler and the listener may both try.
_LEAVING = threading.RLock()


def leave(code: int) -> NoReturn:
    """End the process at once, from any thread, with the terminal as it was found.

    In the main thread further signals do nothing: of a Ctrl-C that is held down each one would
    call its handler inside that of the one before, to Python's limit.
    """
    if threading.current_thread() is threading.main_thread():
        for number in HANDLED:
            signal.signal(number, _do_nothing)
    _LEAVING.acquire()
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR)
    os._exit(code)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal; ignored by the system, one that Python has yet to handle is a traceback."""


class SignalListener:
    """A thread that calls a function with the number of each signal that has a Python handler.

    Handlers run in the main thread, between two of its instructions. While the main thread waits
    for a peer to connect, or for a collective, no handler runs.
    """

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        """Start to listen; main thread only."""
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(
            target=self._listen, args=(on_signal,), name="signals", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening; main thread only."""
        listening = signal.set_wakeup_fd(-1)
        if listening != self._writing:
            signal.set_wakeup_fd(listening)  # set by a later listener
        os.close(self._writing)
        self._thread.join()
        os.close(self._reading)

    def _listen(self, on_signal: Callable[[int], None]) -> None:
        while numbers := os.read(self._reading, 64):
            for number in numbers:
                on_signal(number)
