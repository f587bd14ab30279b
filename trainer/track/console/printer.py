"""Printing a run for people: a line per record, and on a terminal a progress bar below them."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from trainer.track.console.ending import Last, ending
from trainer.track.console.eta import Eta, Pause
from trainer.track.console.lines import SampleText, step_line
from trainer.track.console.progress import PlainLines
from trainer.track.run_files.status import Status
from trainer.wording import human_seconds

_log = logging.getLogger(__name__)


class Console:
    """A printer of a run's records: a line each, and on a terminal a progress bar below them."""

    def __init__(
        self,
        *,
        max_steps: int,
        update: int = 0,
        pauses: Mapping[str, Pause] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start at `update`.

        Args:
            max_steps: updates after which the run ends.
            update: updates so far.
            pauses: by name, when the run will not train for a while: the ETA counts them.
            clock: seconds.
        """
        self._max_steps, self._clock = max_steps, clock
        self._began_s = clock()
        self._eta = Eta(
            max_steps=max_steps, update=update, pauses=pauses or {}, now_s=self._began_s
        )
        self.eta_s: float | None = None
        """Seconds until `max_steps`, see `Eta`; None while unknown."""
        self._last: dict[str, Last] = {}
        self._bar = _progress_bar(max_steps, update) if sys.stderr.isatty() else None

    def log(
        self, values: Mapping[str, Any], *, step: int, update: int, part: str = "train"
    ) -> None:
        """Print one record and move the progress bar; a train record also updates the ETA."""
        if part == "train":
            self._eta.record(update, now_s=self._clock())
            self.eta_s = self._eta.left_s(step=step, update=update)
        self._last[part] = Last.of(values, part=part, step=step)
        self.move(update)
        # A skipped step does not count towards max_steps: the run ends that many steps later.
        last_step = self._max_steps + step - update
        eta_s = self.eta_s if part == "train" else None
        _log.info(step_line(values, step=step, max_steps=last_step, part=part, eta_s=eta_s))

    def sample(self, text: str, *, step: int) -> None:
        """Print a text that the model wrote."""
        _log.info(SampleText(step, text))

    @contextlib.contextmanager
    def pause(self, name: str, *, step: int, update: int) -> Iterator[Callable[[float], None]]:
        """Show that the run does something else than training, and count its time for the ETA.

        Yields:
            A function to call with each share of the whole that is done. What never calls it is
            shown without a share.
        """
        began_s = self._clock()
        with self._shown(name) as on_share:
            yield on_share
        self._eta.paused(name, self._clock() - began_s, step=step)
        if self.eta_s is not None:
            self.eta_s = self._eta.left_s(step=step, update=update)
        self.move(update)

    @contextlib.contextmanager
    def _shown(self, name: str) -> Iterator[Callable[[float], None]]:
        if self._bar is None:
            yield PlainLines(name, total=1, say=_log.info, clock=self._clock).advance
            return
        task = _OneMore(self._bar, name, self._clock)
        try:
            yield task.advance
        finally:
            task.close()

    def move(self, update: int) -> None:
        """Move the progress bar to `update`."""
        if self._bar is not None:
            left = "" if self.eta_s is None else f"eta {human_seconds(self.eta_s)}"
            said = f"{update / self._max_steps:6.1%} {left}"
            with contextlib.suppress(OSError):  # a run goes on without its terminal
                self._bar.update(self._bar.task_ids[0], completed=update, said=said)

    def end(self, status: Status, *, run: str, splits: tuple[str, ...]) -> None:
        """Print how an attempt ended and what may come next, below a bar that is gone."""
        self.close()
        for line in ending(
            status, self._last, run=run, splits=splits, seconds=self._clock() - self._began_s
        ):
            _log.info("%s", line)

    def close(self) -> None:
        """Remove the progress bar, and give the terminal back."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.stop()
            self._bar = None


class _OneMore:
    """A bar below the run's own, for what the run does instead of training."""

    def __init__(self, bar: Progress, name: str, clock: Callable[[], float]) -> None:
        self._bar, self._clock = bar, clock
        self._began_s, self._share = clock(), 0.0
        self._task: TaskID | None = None
        with contextlib.suppress(OSError):
            self._task = bar.add_task(name, total=None, said="")

    def advance(self, share: float) -> None:
        """Move on by a share of the whole."""
        self._share += share
        left_s = (self._clock() - self._began_s) * max(0.0, 1 - self._share) / self._share
        said = f"{min(1.0, self._share):6.1%} {human_seconds(left_s)} left"
        if self._task is not None:
            with contextlib.suppress(OSError):
                self._bar.update(self._task, total=1, completed=self._share, said=said)

    def close(self) -> None:
        """Remove the bar."""
        if self._task is not None:
            with contextlib.suppress(OSError):
                self._bar.remove_task(self._task)


def _progress_bar(max_steps: int, update: int) -> Progress:
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[said]}", markup=False),
        console=Terminal(stderr=True),
        redirect_stdout=sys.stdout.isatty(),
        expand=True,
        transient=True,
    )
    bar.add_task("training", total=max_steps, completed=update, said="")
    bar.start()
    return bar
