"""A shuffle is an order of all its numbers, any as likely as another, whatever is asked of it."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.shuffle import Shuffle

SEEDS = st.tuples(st.integers(0, 1 << 53), st.integers(0, 9))


def order(n: int, seeds: tuple[int, ...]) -> list[int]:
    numbers: list[int] = Shuffle(n, seeds)(np.arange(n)).tolist()
    return numbers


@given(st.integers(1, 3000), SEEDS)
def test_every_number_comes_once(n: int, seeds: tuple[int, int]) -> None:
    assert sorted(order(n, seeds)) == list(range(n))


@given(st.integers(1, 300), SEEDS, st.data())
def test_a_number_depends_on_its_place_alone(
    n: int, seeds: tuple[int, int], data: st.DataObject
) -> None:
    places = data.draw(st.lists(st.integers(0, n - 1), max_size=20))
    whole = order(n, seeds)
    assert Shuffle(n, seeds)(np.array(places, np.int64)).tolist() == [whole[i] for i in places]


def test_an_order_is_the_one_that_its_seeds_always_gave() -> None:
    """A run that goes on under a later state of the code must read the same text."""
    assert order(12, (3, 1)) == [6, 3, 9, 10, 2, 5, 8, 7, 1, 0, 4, 11]
    assert Shuffle(1 << 40, (3, 1))(np.array([0, 1, 1 << 39])).tolist() == [
        653700768841,
        370653986252,
        763602588213,
    ]


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_order_of_few_comes_about_equally_often(n: int) -> None:
    n_orders, each = int(np.prod(range(1, n + 1))), 50
    found = Counter(tuple(order(n, (seed, 7))) for seed in range(n_orders * each))
    assert len(found) == n_orders
    assert each / 2 < min(found.values()) <= max(found.values()) < each * 2


def test_neighbours_go_apart_and_epochs_do_not_agree() -> None:
    n = 100_000
    one, other = (np.array(order(n, (1, epoch))) for epoch in (0, 1))
    for numbers in (one, other, one - other):
        steps = np.abs(np.diff(numbers))
        assert (steps < n / 100).mean() < 0.03
    assert (one == other).sum() < 10
    assert (one == np.arange(n)).sum() < 10
