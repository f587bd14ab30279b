"""Printing a run for people: a line per record, and a progress bar."""

import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TextColumn

from trainer.track.console.lines import console_line
from trainer.wording import human_seconds

_log = logging.getLogger(__name__)

ETA_WINDOW = 50
"""The ETA's speed is taken over so many records: validations and checkpoints average out."""


class Console:
    """A printer of a run's records: a line each, and on a terminal a progress bar below them."""

    def __init__(self, *, max_steps: int, update: int = 0, time_s: float | None = None) -> None:
        """Start at `update`; `time_s` is the monotonic clock's reading, now if None."""
        self._max_steps = max_steps
        now_s = time.monotonic() if time_s is None else time_s
        self._seen: deque[tuple[int, float]] = deque([(update, now_s)], maxlen=ETA_WINDOW)
        self.eta_s: float | None = None
        """Seconds until `max_steps` at the speed of the last records; None while unknown."""
        self._bar = _progress_bar(max_steps, update) if sys.stderr.isatty() else None

    def log(
        self,
        values: Mapping[str, Any],
        *,
        step: int,
        update: int,
        part: str = "train",
        time_s: float | None = None,
    ) -> None:
        """Print one record and move the progress bar; a train record also updates the ETA."""
        if part == "train":
            now_s = time.monotonic() if time_s is None else time_s
            self.eta_s = self._eta_s(update, now_s)
        self.move(update)
        # A skipped step does not count towards max_steps: the run ends that many steps later.
        last_step = self._max_steps + step - update
        eta_s = self.eta_s if part == "train" else None
        _log.info(
            "%s", console_line(values, step=step, max_steps=last_step, part=part, eta_s=eta_s)
        )

    def move(self, update: int) -> None:
        """Move the progress bar to `update`."""
        if self._bar is not None:
            left = "" if self.eta_s is None else f"eta {human_seconds(self.eta_s)}"
            with contextlib.suppress(OSError):  # a run goes on without its terminal
                self._bar.update(self._bar.task_ids[0], completed=update, eta=left)

    def close(self) -> None:
        """Leave the progress bar as it is, and give the terminal back."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.stop()
            self._bar = None

    def _eta_s(self, update: int, now_s: float) -> float | None:
        if update < self._seen[-1][0]:
            self._seen.clear()  # after a rollback the old speed counts no more
        self._seen.append((update, now_s))
        first_update, first_s = self._seen[0]
        if update == first_update:
            return None
        return (self._max_steps - update) * (now_s - first_s) / (update - first_update)


def _progress_bar(max_steps: int, update: int) -> Progress:
    bar = Progress(
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>5.1f} % {task.fields[eta]}"),
        console=Terminal(stderr=True),
        redirect_stdout=sys.stdout.isatty(),
        expand=True,
    )
    bar.add_task("train", total=max_steps, completed=update, eta="")
    bar.start()
    return bar
