"""Signals heard by a thread: at once, also while the main thread waits in C for its peers."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import NoReturn

#: What shows a terminal's cursor again, which a progress bar hides.
_SHOW_CURSOR = b"\x1b[?25h\n"
#: Held by the thread that ends the process, for a handler and the listener may both come to it.
_LEAVING = threading.RLock()


def leave(code: int) -> NoReturn:
    """End the process at once, from any thread, with the terminal as it was found."""
    _LEAVING.acquire()
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR)
    os._exit(code)


class SignalListener:
    """Calls a function with the number of every signal that has a handler in Python.

    Handlers themselves run in the main thread, between two of its instructions: one that waits for
    a peer to connect, or for a collective, hears nothing until it is done.
    """

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        """Listen from now on; main thread only."""
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(
            target=self._listen, args=(on_signal,), name="signals", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Listen no more; main thread only."""
        listening = signal.set_wakeup_fd(-1)
        if listening != self._writing:
            signal.set_wakeup_fd(listening)  # of who came after
        os.close(self._writing)
        self._thread.join()
        os.close(self._reading)

    def _listen(self, on_signal: Callable[[int], None]) -> None:
        while numbers := os.read(self._reading, 64):
            for number in numbers:
                on_signal(number)
