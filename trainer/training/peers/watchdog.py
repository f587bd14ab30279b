"""A thread of each rank that ends it when nothing gets on, since nothing else may end it.

A rank whose peer is stopped or gone waits in a collective. There no handler of a signal runs and no
exception comes: not before the collective's own time is over, and on a GPU none at all. The thread
writes where all threads of the rank are into the rank's log, and names the ranks that did not get
on.
"""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

from trainer.errors import Exit
from trainer.progress import Progress
from trainer.training.peers.board import Board
from trainer.training.peers.lost import Lost, Peers

#: Seconds at least before the first step has ended: imports and compilers report no progress.
START_S = 300.0
#: Seconds that a rank has to notice by itself that another is gone.
NOTICE_S = 10.0
#: Seconds to write down what was found, on a file system that may hang as well.
WRITE_S = 30.0
#: Looks within the limit: so much later than it a rank may end.
_LOOKS = 20


class Watchdog:
    """A counter of the time in which nothing got on, and a giver of signs of life."""

    def __init__(
        self,
        progress: Progress,
        *,
        board: Board | None,
        peers: Peers,
        limit_s: float,
        beat_s: float,
        log_file: Path,
        on_end: Callable[[Lost], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch the thread that makes the watchdog.

        Args:
            progress: what this rank finishes.
            board: where to give signs of life; None for a rank that is alone.
            peers: the other ranks.
            limit_s: seconds without progress after which the rank ends.
            beat_s: seconds between two signs of life.
            log_file: the rank's log.
            on_end: ends the process, from a thread.
            clock: seconds, from any beginning.
        """
        self._progress, self._board, self._peers = progress, board, peers
        self._limit_s, self._beat_s, self._log_file = limit_s, beat_s, log_file
        self._on_end, self._clock = on_end, clock
        self._tick_s = min(1.0, limit_s / _LOOKS)
        self._main = threading.get_ident()
        self._over, self._turn = threading.Event(), threading.Lock()
        self._count, self._idle_s, self._before = progress.count, 0.0, clock()
        self._next_beat = clock()
        self._lost_since: float | None = None

    def start(self) -> None:
        """Start the thread."""

        def watch() -> None:
            while not self._over.wait(self._tick_s):
                found = self.look()
                if found is not None and not self._over.is_set():
                    self._on_end(found)

        threading.Thread(target=watch, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """End the thread's watch; after this nobody else writes on the board."""
        self._over.set()
        with self._turn:
            pass

    def look(self) -> Lost | None:
        """Give a sign of life if it is time; return why to end the process, or None.

        Time in which the process itself was stopped does not count.
        """
        with self._turn:
            if self._over.is_set():
                return None
            now = self._clock()
            self._idle_s += min(now - self._before, 2 * self._tick_s)
            self._before = now
            if self._progress.count != self._count:
                self._count, self._idle_s = self._progress.count, 0.0
            if self._idle_s >= self._limit_now_s:
                return self._hung()
            if now >= self._next_beat:
                self._next_beat = now + self._beat_s
                return self._beat(now)
            return None

    @property
    def _limit_now_s(self) -> float:
        return self._limit_s if self._progress.n_steps else max(self._limit_s, START_S)

    def _beat(self, now: float) -> Lost | None:
        """Give a sign of life; return a rank that is gone, if the main thread has not noticed."""
        if self._board is None:
            return None
        self._write()
        lost = self._peers.look()
        if lost is None:
            self._lost_since = None
        elif self._lost_since is None:
            self._lost_since = now
            self._next_beat = now + NOTICE_S
        elif now - self._lost_since >= NOTICE_S:
            return lost
        return None

    def _write(self, *, waits_in: str = "") -> None:
        if self._board is not None:
            progress, beats = self._progress, self._board.note.n_beats
            said = {"n_beats": beats + 1, "count": progress.count, "last": progress.last}
            self._board.write(**said, waits_in=waits_in)

    def _hung(self) -> Lost:
        """Write down where this rank is, and find out who is gone, or does not get on."""
        place = _place_of(self._main)
        found: list[Lost] = []

        def find() -> None:
            self._write(waits_in=place)
            self._log(f"nothing got on for {self._idle_s:.0f} s: the stacks of all threads")
            found.append(self._peers.look() or self._named(self._peers.find_hung()))

        finding = threading.Thread(target=find, name="hung", daemon=True)
        finding.start()
        finding.join(WRITE_S + self._limit_s)
        told = f"this rank is at {place}, and cannot write"
        return found[0] if found else self._named(Lost(told=told, code=Exit.HUNG))

    def _named(self, hung: Lost) -> Lost:
        """Return what is known of ranks that do not get on, with how long and after what."""
        begin = f"nothing got on for {self._idle_s:.0f} s (limits.distributed_timeout_s)"
        ending = f"all stacks are in {self._log_file.parent}"
        return replace(hung, told=f"{begin}, after {self._progress.last}: {hung.told}; {ending}")

    def _log(self, line: str) -> None:
        """Add a line to the rank's log, and the stacks of all threads."""
        with contextlib.suppress(OSError):
            self._log_file.parent.mkdir(exist_ok=True)
            with self._log_file.open("a") as file:
                file.write(f"{line}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)


def _place_of(thread: int) -> str:
    """Return the lines where a thread is: the innermost one, and the trainer's own around it."""
    frame: FrameType | None = sys._current_frames().get(thread)
    places: list[str] = []
    while frame is not None and not (places and "/trainer/" in places[-1]):
        code = frame.f_code
        if not places or "/trainer/" in code.co_filename:
            places.append(f"{code.co_filename}:{frame.f_lineno} in {code.co_name}")
        frame = frame.f_back
    return ", called from ".join(places)
