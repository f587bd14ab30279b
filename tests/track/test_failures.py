"""What fails at every step is told now and then, and what is mended is told of anew."""

import logging

import pytest

from trainer.track.failures import FIRST_S, Failures


def test_a_failure_of_every_second_is_told_at_growing_intervals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    failures = Failures(clock=lambda: now[0])
    told = []
    with caplog.at_level(logging.ERROR, logger="trainer"):
        for second in range(1000):
            now[0] = float(second)
            if failures.tell("disk", "the disk is full"):
                told.append(second)
        assert failures.tell("network", "the network is gone")
    assert told == [0, FIRST_S, 3 * FIRST_S, 7 * FIRST_S, 15 * FIRST_S]
    assert caplog.messages[1] == "the disk is full (and 59 times since this was last said)"
    assert len(caplog.messages) == len(told) + 1


def test_what_worked_for_a_while_is_told_at_once_when_it_fails_again() -> None:
    now = [0.0]
    failures = Failures(clock=lambda: now[0])
    assert failures.tell("disk", "full")
    now[0] = FIRST_S - 1
    assert not failures.tell("disk", "full")
    now[0] += FIRST_S + 1
    assert failures.tell("disk", "full")
    now[0] += FIRST_S / 2
    assert not failures.tell("disk", "full")
