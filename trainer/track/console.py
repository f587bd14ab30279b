"""Printing a run for people: a line per record in a fixed order, a progress bar, and logs."""

import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TextColumn

from trainer.track.perplexity import shown_perplexity
from trainer.wording import LineFormatter, human_count, human_seconds

_log = logging.getLogger(__name__)

ETA_WINDOW = 50
"""The ETA's speed is taken over so many records: validations and checkpoints average out."""


def console_line(
    values: Mapping[str, Any],
    *,
    step: int,
    max_steps: int,
    part: str = "train",
    eta_s: float | None = None,
) -> str:
    """Return a line for people, always in the same order, without metrics that are missing.

    Args:
        values: metrics by name, such as ``train/loss``.
        step: the step of the metrics.
        max_steps: the step at which the run ends.
        part: ``train``, or ``valid``, which the line then names.
        eta_s: seconds until the end; None is left out.
    """
    cells = [f"step {step:,}/{max_steps:,}"]
    if part != "train":
        cells.append(part)
    for name, cell in _CELLS.items():
        value = values.get(name.format(part=part))
        if value is not None:
            cells.append(cell(value))
    if eta_s is not None:
        cells.append(f"eta {human_seconds(eta_s)}")
    return " | ".join(cells)


_CELLS: dict[str, Callable[[float], str]] = {
    "{part}/loss": "loss {:.4f}".format,
    "{part}/ppl": lambda ppl: f"ppl {shown_perplexity(ppl)}",
    "{part}/ppl_word": lambda ppl: f"ppl_word {shown_perplexity(ppl)}",
    "{part}/bpc": "bpc {:.4f}".format,
    "optim/lr": "lr {:.2e}".format,
    "optim/grad_norm": "grad_norm {:.2f}".format,
    "throughput/tokens_per_s": lambda rate: f"{human_count(rate)} tok/s",
    "memory/peak_gib": "mem {:.1f} GiB".format,
}


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


class _Stderr:
    """The `sys.stderr` of the moment of writing, which a progress bar may have replaced."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _LogFile(logging.FileHandler):
    """A log file that reports once that it cannot be written, and goes on as soon as it can."""

    _failed_last = _fails = False

    def emit(self, record: logging.LogRecord) -> None:
        self._fails = False
        super().emit(record)
        self._failed_last = self._fails

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Report once that the file cannot be written."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self._fails = True
        if not self._failed_last:
            self._failed_last = True  # the next message comes here, too
            _log.error("%s cannot be written: %s", self.baseFilename, error.strerror)


def setup_logging(rank: int, *, log_file: Path | None = None) -> None:
    """Send the trainer's log to stderr (rank 0 from info on, others warnings) and to `log_file`.

    Every rank calls this at its start; a second call replaces the first.

    Raises:
        OSError: `log_file` cannot be written.
    """
    close_logging()
    handlers: list[logging.Handler] = [logging.StreamHandler(_Stderr())]
    handlers[0].setLevel(logging.INFO if rank == 0 else logging.WARNING)
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_LogFile(log_file, encoding="utf-8", errors="backslashreplace"))
    logger = logging.getLogger("trainer")
    logger.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(
            LineFormatter(f"%(asctime)s [{rank}] %(shortlevel)s%(message)s", "%H:%M:%S")
        )
        handler.addFilter(_name_level)
        logger.addHandler(handler)


def close_logging() -> None:
    """Undo `setup_logging`, at the end of a run or a test."""
    logger = logging.getLogger("trainer")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk was reported before
            handler.close()


def _name_level(record: logging.LogRecord) -> bool:
    record.shortlevel = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
    return True
