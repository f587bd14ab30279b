"""The time left counts the steps to come, and all that will interrupt them."""

import pytest

from trainer.track.console.eta import Eta, Pause


def test_the_eta_is_the_rest_at_the_speed_so_far() -> None:
    eta = Eta(max_steps=100, update=40, pauses={}, now_s=0.0)  # resumed: 40 are not this speed's
    assert eta.left_s(step=40, update=40) is None
    eta.record(50, now_s=20.0)
    assert eta.left_s(step=50, update=50) == 100.0
    eta.record(100, now_s=120.0)
    assert eta.left_s(step=100, update=100) == 0.0


def test_a_rollback_starts_the_eta_anew() -> None:
    eta = Eta(max_steps=100, update=0, pauses={}, now_s=0.0)
    eta.record(10, now_s=10.0)
    eta.record(5, now_s=20.0)
    assert eta.left_s(step=5, update=5) is None
    eta.record(10, now_s=25.0)
    assert eta.left_s(step=10, update=10) == 90.0


@pytest.mark.parametrize("interval_steps", [0, 7, 10, 50, 99, 100])
@pytest.mark.parametrize("at_end", [False, True])
def test_pauses_to_come_are_those_that_a_run_would_make(interval_steps: int, at_end: bool) -> None:
    pause = Pause(interval_steps, at_end=at_end)
    for last_step in (99, 100):
        steps = range(1, last_step + 1)
        pauses = {step for step in steps if interval_steps and step % interval_steps == 0}
        pauses |= {last_step} if at_end else set()
        for done_step in range(last_step + 1):
            to_come = len([step for step in pauses if step > done_step])
            assert pause.n_to_come(done_step=done_step, last_step=last_step) == to_come


def test_the_eta_is_right_from_the_first_validation_and_save_on() -> None:
    """Steps of 2 s, every 10 a validation of 30 s, every 25 and at the end a save of 5 s."""
    pauses = {"validating": Pause(10, at_end=True), "saving": Pause(25, at_end=True)}
    takes_s = {"validating": 30.0, "saving": 5.0}
    now_s = 0.0
    eta = Eta(max_steps=95, update=0, pauses=pauses, now_s=now_s)
    left: dict[int, tuple[float, float]] = {}
    for step in range(1, 96):
        now_s += 2.0
        eta.record(step, now_s=now_s)
        left_s = eta.left_s(step=step, update=step)
        assert left_s is not None
        left[step] = left_s, now_s
        for name, pause in pauses.items():
            if step % pause.interval_steps == 0 or step == 95:
                now_s += takes_s[name]
                eta.paused(name, takes_s[name], step=step)
    for step in range(26, 96):
        left_s, at_s = left[step]
        assert at_s + left_s == pytest.approx(now_s)
    assert eta.left_s(step=95, update=95) == 0.0


def test_a_skipped_step_makes_the_run_longer() -> None:
    eta = Eta(max_steps=100, update=0, pauses={"saving": Pause(0, at_end=True)}, now_s=0.0)
    eta.paused("saving", 7.0, step=5)
    eta.record(10, now_s=17.0)
    assert eta.left_s(step=100, update=97) == 3.0 + 7.0
