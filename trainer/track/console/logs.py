"""A run's logs: on stderr and in a file per rank, a line per message."""

import contextlib
import logging
import sys
from pathlib import Path

from rich.console import Console as Terminal

from trainer.track.console.lines import Fitting, wrapped
from trainer.track.failures import Failures
from trainer.wording import LOGGED_CHARACTERS, LineFormatter, printable


class _Stderr:
    """The `sys.stderr` of the moment of writing, which a progress bar may have replaced."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _StderrFormatter(LineFormatter):
    """A formatter that keeps messages whole, and on a terminal fits them to its width."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """Return the line; on a terminal all lines of a message begin in the same column."""
        whole = super().formatMessage(record)
        if not sys.stderr.isatty():
            return whole
        head = whole.removesuffix(record.message)
        room = Terminal(stderr=True).width - len(head)
        if isinstance(record.msg, Fitting):
            lines = record.msg.fitting(room)
        else:
            lines = wrapped(printable(record.message, most=LOGGED_CHARACTERS), room)
        return head + f"\n{' ' * len(head)}".join(lines)


class _Terminal(logging.StreamHandler[_Stderr]):
    """Standard error, which is written when it can be: there is no other place to complain."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Leave a line out if the disk of standard error is full, or its reader is gone."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _LogFile(logging.FileHandler):
    """A log file that reports now and then that it cannot be written, and goes on when it can."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._failures = Failures()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Report that the file cannot be written; the report itself comes here, too."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        told = f"{self.baseFilename} cannot be written: {error.strerror}"
        self._failures.tell(self.baseFilename, told)


def setup_logging(rank: int, *, log_file: Path | None = None) -> None:
    """Send the trainer's log to stderr (rank 0 from info on, others warnings) and to `log_file`.

    Every rank calls this at its start; a second call replaces the first.

    Raises:
        OSError: `log_file` cannot be written.
    """
    close_logging()
    handlers: list[logging.Handler] = [_Terminal(_Stderr())]
    handlers[0].setLevel(logging.INFO if rank == 0 else logging.WARNING)
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_LogFile(log_file))
    logger = logging.getLogger("trainer")
    logger.setLevel(logging.INFO)
    for handler, formatter in zip(handlers, (_StderrFormatter, LineFormatter), strict=False):
        line = f"%(asctime)s [{rank}] %(shortlevel)s%(message)s"
        handler.setFormatter(formatter(line, "%H:%M:%S"))
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
