"""Looking at a run again and again until it ends: on a terminal in place, elsewhere in lines."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live

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
    follower = Follower(run_dir)
    if console.is_terminal:
        _watch_in_place(run_dir, follower, interval_s, console, wait, clock)
    else:
        _watch_in_lines(run_dir, follower, interval_s, console, wait, clock)


def _watch_in_place(
    run_dir: Path,
    follower: Follower,
    interval_s: float,
    console: Console,
    wait: Callable[[float], None],
    clock: Callable[[], float],
) -> None:
    unicode = console.encoding.lower().startswith("utf")
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            history = follower.look()
            shot = snapshot(run_dir, history, now=clock())
            width, height = console.size
            shown = screen(shot, history, width=width, height=height, unicode=unicode)
            live.update(shown, refresh=True)
            if not shot.is_alive:
                return
            wait(interval_s)


def _watch_in_lines(
    run_dir: Path,
    follower: Follower,
    interval_s: float,
    console: Console,
    wait: Callable[[float], None],
    clock: Callable[[], float],
) -> None:
    told: tuple[object, ...] = ()
    while True:
        shot = snapshot(run_dir, follower.look(), now=clock())
        minutes = None if shot.missing_s is None else int(shot.missing_s // _REMIND_S)
        now = (shot.step, shot.is_alive, shot.valid_step, minutes)
        if now != told:
            print(plain_line(shot), file=console.file, flush=True)
            told = now
        if not shot.is_alive:
            return
        wait(interval_s)
