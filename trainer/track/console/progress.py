"""Showing on stderr how far long work is: a bar with the time left, or plain lines."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from trainer.wording import human_seconds, printable

#: Seconds between two plain lines; shorter work shows none.
PLAIN_S = 15.0


@contextmanager
def progress(
    label: str, *, total: float, shows: bool = True, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[float], None]]:
    """Show `label` and the share of `total` that is done; yield a function to call with more done.

    Args:
        label: the work.
        total: all of the work, in any unit.
        shows: whether to show anything; true on one rank alone.
        clock: seconds, for the plain lines.
    """
    console = Console(stderr=True)
    if not shows or total <= 0:
        yield lambda n_new: None
        return
    if not console.is_terminal:
        plain = partial(console.print, highlight=False, markup=False, soft_wrap=True)
        yield PlainLines(label, total=total, say=plain, clock=clock).advance
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(printable(label, most=100), total=total)
        yield lambda n_new: bar.advance(task, n_new)


@contextmanager
def working(label: str) -> Iterator[None]:
    """Show on a terminal that work of unknown length goes on, and for how long; else nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        bar.add_task(printable(label, most=100), total=None)
        yield


class PlainLines:
    """Progress as a line every `PLAIN_S` seconds."""

    def __init__(
        self,
        label: str,
        *,
        total: float,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start at the reading of `clock`; `say` prints a line."""
        self._label, self._total, self._say, self._clock = label, total, say, clock
        self._done = 0.0
        self._began = self._shown = clock()

    def advance(self, n_new: float) -> None:
        """Count more work, and show it if that is due."""
        self._done += n_new
        now = self._clock()
        if now - self._shown < PLAIN_S or self._done >= self._total:
            return
        self._shown = now
        left_s = (now - self._began) * (self._total - self._done) / self._done
        said = f"{self._label}: {self._done / self._total:.0%}, {human_seconds(left_s)} left"
        self._say(printable(said))
