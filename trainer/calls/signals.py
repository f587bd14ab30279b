"""Signals while a call trains: the run is saved first, then they do what they would have done."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from trainer.training.ending.stopping import StopRequests, Wish

#: Signals that stop a run, as `trainer.training.ending.stopping` takes them for a command.
_SIGNALS = {
    signal.SIGINT: Wish.STOP,
    signal.SIGTERM: Wish.REQUEUE,
    signal.SIGUSR1: Wish.REQUEUE,
    signal.SIGUSR2: Wish.REQUEUE,
    signal.SIGHUP: Wish.REQUEUE,
}


@contextlib.contextmanager
def saving_first(stops: StopRequests) -> Iterator[None]:
    """Note signals in `stops` while it holds a run; send them again when the block has ended.

    Before the run holds anything, and at a second Ctrl-C, the handler that was found acts at once:
    for Ctrl-C that raises `KeyboardInterrupt`. An ignored signal stays ignored. In a thread other
    than the main one no signal arrives, and none is taken.
    """
    noted: list[signal.Signals] = []
    found = {
        number: signal.getsignal(number)
        for number in _SIGNALS
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }

    def note(number: int, frame: FrameType | None) -> None:
        """Handle a signal in the main thread."""
        sent = signal.Signals(number)
        if stops.holds and not (sent is signal.SIGINT and sent in noted):
            noted.append(sent)
            name = "Ctrl-C" if sent is signal.SIGINT else sent.name
            stops.want(_SIGNALS[sent], name)
            return
        handler = found[sent]
        if callable(handler):
            handler(number, frame)
        else:
            signal.signal(sent, handler)
            signal.raise_signal(sent)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for number in found:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)
    for sent in dict.fromkeys(noted):
        signal.raise_signal(sent)
