"""Looking at a run again and again until it ends: on a terminal in place, elsewhere in lines."""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live

from trainer.report.history import History
from trainer.report.watch.follower import Follower
from trainer.report.watch.screen import plain_line, screen
from trainer.report.watch.snapshot import Snapshot, snapshot

#: Seconds after which a line says again that a heartbeat is missing.
_REMIND_S = 60.0


def take(run_dir: Path, *, now: float) -> Snapshot:
    """Return one snapshot of a run at unix time `now`.

    Raises:
        InputError: there is no run, or one of a newer version.
    """
    return snapshot(run_dir, Follower(run_dir).look(), now=now)


def watch(
    run_dir: Path,
    *,
    interval_s: float,
    console: Console,
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> None:
    """Show a run until it has ended, or the user has seen enough.

    Args:
        run_dir: the run's directory.
        interval_s: seconds between two looks.
        console: where to show it.
        wait: waits for some seconds.
        clock: returns unix time.

    Raises:
        InputError: there is no run, or one of a newer version.
    """
    looks = _looks(run_dir, interval_s, wait, clock)
    if console.is_terminal:
        _show_in_place(looks, console)
    else:
        _show_in_lines(looks, console)


def _looks(
    run_dir: Path,
    interval_s: float,
    wait: Callable[[float], None],
    clock: Callable[[], float],
) -> Iterator[tuple[History, Snapshot]]:
    """Yield what a run has recorded and how it stands, again and again until it has ended."""
    follower = Follower(run_dir)
    while True:
        history = follower.look()
        shot = snapshot(run_dir, history, now=clock())
        yield history, shot
        if not shot.is_alive:
            return
        wait(interval_s)


def _show_in_place(looks: Iterable[tuple[History, Snapshot]], console: Console) -> None:
    unicode = console.encoding.lower().startswith("utf")
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for history, shot in looks:
            width, height = console.size
            shown = screen(shot, history, width=width, height=height, unicode=unicode)
            live.update(shown, refresh=True)


def _show_in_lines(looks: Iterable[tuple[History, Snapshot]], console: Console) -> None:
    told: tuple[object, ...] = ()
    for _, shot in looks:
        minutes = None if shot.missing_s is None else int(shot.missing_s // _REMIND_S)
        now = (shot.step, shot.is_alive, shot.valid_step, minutes)
        if now != told:
            print(plain_line(shot), file=console.file, flush=True)
            told = now
