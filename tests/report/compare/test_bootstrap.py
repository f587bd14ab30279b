"""The interval holds the true difference as often as it says, also where neighbours are alike."""

import numpy as np
import pytest

from trainer.report.compare.bootstrap import block_length, interval


def alike(n: int, *, likeness: float, seed: int) -> np.ndarray:
    """Return values of mean 0, each `likeness` of the one before and some noise."""
    noise = np.random.default_rng(seed).standard_t(5, n + 200)
    values = np.zeros(n + 200)
    for i in range(1, n + 200):
        values[i] = likeness * values[i - 1] + noise[i]
    return values[200:]


@pytest.mark.parametrize(("n", "likeness"), [(600, 0.0), (1500, 0.6)])
def test_the_true_difference_is_inside_as_often_as_is_said(n: int, likeness: float) -> None:
    truth, inside = 0.1, 0
    for seed in range(200):
        found = interval(truth + alike(n, likeness=likeness, seed=seed), n_draws=200)
        inside += found.low <= truth <= found.high
    assert 0.90 <= inside / 200 <= 0.99


def test_no_difference_has_no_interval() -> None:
    found = interval(np.zeros(1000))
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.25], [1.0, 1.0, 1.0, 1.0], [1.0, -1.0] * 50])
def test_few_or_equal_values_have_an_interval_around_their_mean(values: list[float]) -> None:
    found = interval(np.array(values))
    assert found.mean == np.mean(values)
    assert found.low <= found.mean <= found.high


def test_blocks_are_longer_where_neighbours_are_alike_longer() -> None:
    lengths = [block_length(alike(4000, likeness=part, seed=3)) for part in (0.0, 0.5, 0.9)]
    assert lengths == sorted(lengths)
    assert lengths[0] <= 5
    assert lengths[2] > 30


def test_the_same_seed_draws_the_same() -> None:
    values = alike(500, likeness=0.3, seed=1)
    assert interval(values) == interval(values)
    assert interval(values) != interval(values, seed=2)
