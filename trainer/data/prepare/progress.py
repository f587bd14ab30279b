"""Showing the progress of a pass over files on stderr: a bar on a terminal, else plain lines.

A pass that ends early because it has read enough shows 100 %; one that stays at 30 % has failed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.wording import printable

_PLAIN_LINES = 10


@contextmanager
def progress(label: str, *, n_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show `label` and the share of `n_bytes` read; yield a function to call with bytes read."""
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _PlainLines(label, n_bytes, console)
        with _completing(lambda: lines.advance(n_bytes - lines.n_read)):
            yield lines.advance
        return
    label = printable(label, most=100)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=n_bytes)
        with _completing(lambda: bar.update(task, completed=n_bytes)):
            yield lambda n_read: bar.advance(task, n_read)


@contextmanager
def _completing(complete: Callable[[], None]) -> Iterator[None]:
    """Call `complete` when the block ends or its generator is closed, but not after an error."""
    try:
        yield
    except GeneratorExit as closing:
        if closing.__context__ is None:
            complete()
        raise
    complete()


class _PlainLines:
    """Progress as a line whenever another tenth of `n_bytes` was read."""

    def __init__(self, label: str, n_bytes: int, console: Console) -> None:
        self.n_read = 0
        self._label, self._n_bytes, self._console = label, n_bytes, console
        self._n_shown = 0

    def advance(self, n_new: int) -> None:
        """Count `n_new` more bytes."""
        self.n_read += n_new
        n_due = min(self.n_read * _PLAIN_LINES // max(self._n_bytes, 1), _PLAIN_LINES)
        if n_due > self._n_shown:
            self._n_shown = n_due
            told = f"{n_due / _PLAIN_LINES:.0%} of {self._n_bytes / 2**20:,.1f} MiB"
            said = printable(f"{self._label}: {told}")
            self._console.print(said, highlight=False, markup=False)
