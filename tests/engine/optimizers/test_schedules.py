"""The learning rate is fairseq's cosine, a pure function of the update, counted from 1."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.engine.optimizers.schedules import Schedule, cosine

HALF = math.sqrt(0.5) / 2  # ½ cos π/4


@pytest.mark.parametrize(
    ("warmup_steps", "min_lr", "rates"),
    [
        (0, 0.0, [1, 0.5 + HALF, 0.5, 0.5 - HALF, 0, 0]),
        (2, 0.0, [0, 0.5, 1, 0.5, 0, 0]),
        (2, 0.2, [0.2, 0.6, 1, 0.6, 0.2, 0.2]),
        (4, 0.0, [0, 0.25, 0.5, 0.75, 0, 0]),
    ],
)
def test_rates_are_those_written_down(warmup_steps: int, min_lr: float, rates: list[float]) -> None:
    ours = [
        cosine(update, lr=1.0, min_lr=min_lr, warmup_steps=warmup_steps, max_steps=4)
        for update in range(1, 7)
    ]
    assert ours == pytest.approx(rates)


def test_a_cosine_that_counts_from_the_start_is_kimiyoung_s() -> None:
    """PyTorch's own cosine over all updates, of which warm-up replaces the first."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=0.01)
    for update in range(1, 21):
        (rate,) = theirs.get_last_lr()
        ours = cosine(
            update,
            lr=0.1,
            min_lr=0.01,
            warmup_steps=5,
            max_steps=20,
            begins="start",
            warmup_init_lr=0.0,
        )
        assert ours == pytest.approx(0.1 * (update - 1) / 5 if update <= 5 else rate)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(("init", "first"), [(None, 0.2), (0.0, 0.0), (0.5, 0.5)])
def test_warm_up_begins_where_it_is_told(init: float | None, first: float) -> None:
    rates = [
        cosine(u, lr=1.0, min_lr=0.2, warmup_steps=4, max_steps=9, warmup_init_lr=init)
        for u in (1, 3, 5, 10)
    ]
    assert rates == pytest.approx([first, (first + 1) / 2, 1.0, 0.2])


@given(st.integers(0, 50), st.integers(1, 100), st.floats(0, 1), st.integers(1, 400))
@settings(deadline=None)
def test_rates_rise_to_the_peak_fall_to_the_floor_and_stay_there(
    warmup_steps: int, decay_steps: int, min_lr: float, update: int
) -> None:
    max_steps = warmup_steps + decay_steps
    now, then = (
        cosine(u, lr=1.0, min_lr=min_lr, warmup_steps=warmup_steps, max_steps=max_steps)
        for u in (update, update + 1)
    )
    assert min_lr <= now <= 1 + 1e-12
    if update <= warmup_steps:
        assert then >= now
    else:
        assert then <= now
    if update == warmup_steps + 1:
        assert now == 1
    if update > max_steps:
        assert now == min_lr


def rate(update: int) -> float:
    return 1 / update


@pytest.fixture
def optimizer() -> torch.optim.Optimizer:
    weight = torch.nn.Parameter(torch.zeros(1))
    other = torch.nn.Parameter(torch.zeros(1))
    return torch.optim.Adam([{"params": [weight]}, {"params": [other]}], lr=99.0)


def test_the_first_update_has_its_own_rate_in_every_group(optimizer: torch.optim.Optimizer) -> None:
    schedule = Schedule(optimizer, rate)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 1.0]
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert schedule.get_last_lr() == [0.5, 0.5]


def test_a_resumed_schedule_goes_on_at_its_own_rates(optimizer: torch.optim.Optimizer) -> None:
    schedule = Schedule(optimizer, rate)
    for _ in range(5):
        schedule.step()
    resumed = Schedule(optimizer, lambda update: 10 * rate(update))
    resumed.load_state_dict(schedule.state_dict())
    assert optimizer.param_groups[0]["lr"] == pytest.approx(10 / 6)
    resumed.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(10 / 7)


def test_deepspeed_does_not_take_a_schedule_for_a_factory(optimizer: torch.optim.Optimizer) -> None:
    assert not callable(Schedule(optimizer, rate))
