"""How far a pass over files is, on stderr: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

_PLAIN_LINES = 10


@contextmanager
def progress(label: str, *, n_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show `label` and the share of `n_bytes` read; yields what to call with each number read."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(label, n_bytes, console)
        return
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=n_bytes)
        yield lambda n_read: bar.advance(task, n_read)


def _plain(label: str, n_bytes: int, console: Console) -> Callable[[int], None]:
    n_read = 0
    n_shown = 0

    def advance(n_new: int) -> None:
        nonlocal n_read, n_shown
        n_read += n_new
        n_due = n_read * _PLAIN_LINES // max(n_bytes, 1)
        if n_due > n_shown:
            n_shown = n_due
            share = f"{n_due / _PLAIN_LINES:.0%}"
            console.print(f"{label}: {share} of {n_bytes / 2**20:,.1f} MiB", highlight=False)

    return advance
