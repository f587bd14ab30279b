"""Signals wait for a run that has something to save, and for nothing else."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from txl_command import signals_kept

from trainer.calls.signals import saving_first
from trainer.training.ending.stopping import StopRequests, Wish

Heard = list[int]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Yield signals that the process's own handler of SIGTERM was given."""
    numbers: Heard = []
    with signals_kept():
        signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield numbers


def hold(stops: StopRequests, run_dir: Path) -> None:
    stops.hold(run_dir, time_limit_s=None, watches_file=False)


def test_before_a_run_holds_anything_the_process_hears_at_once(heard: Heard) -> None:
    stops = StopRequests()
    with saving_first(stops):
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (heard, stops.poll()) == ([signal.SIGTERM], Wish.NONE)


def test_a_held_run_hears_first_and_the_process_afterwards(heard: Heard, tmp_path: Path) -> None:
    stops = StopRequests()
    with saving_first(stops):
        hold(stops, tmp_path)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert (heard, stops.poll(), stops.reason) == ([], Wish.REQUEUE, "SIGTERM")
    assert heard == [signal.SIGTERM]


def interrupted(
    stops: StopRequests, run_dir: Path, n_presses: int, after: Callable[[], None]
) -> None:
    with saving_first(stops):
        hold(stops, run_dir)
        for _ in range(n_presses):
            signal.raise_signal(signal.SIGINT)
        after()


@pytest.mark.parametrize(("n_presses", "ends"), [(1, True), (2, False)])
def test_the_second_interrupt_is_not_waited_for(
    heard: Heard, tmp_path: Path, n_presses: int, ends: bool
) -> None:
    stops, ended = StopRequests(), []
    with pytest.raises(KeyboardInterrupt):
        interrupted(stops, tmp_path, n_presses, lambda: ended.append(True))
    assert stops.poll() is Wish.STOP
    assert bool(ended) is ends
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_the_process_ignores_stays_ignored(heard: Heard, tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stops = StopRequests()
    with saving_first(stops):
        hold(stops, tmp_path)
        signal.raise_signal(signal.SIGHUP)
    assert (heard, stops.poll()) == ([], Wish.NONE)
