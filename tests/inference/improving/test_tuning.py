"""Tuning ends inside of what it has tried, and a pass over a grid gives what single passes give."""

import itertools
import math

import pytest
import torch
from builders import lone_world

from trainer.errors import InputError
from trainer.inference.improving import tuning
from trainer.inference.improving.cache import Seen, mixed
from trainer.inference.improving.options import ImprovingOptions
from trainer.inference.improving.tuning import FLATNESSES, WEIGHTS, Grid, climbed
from trainer.protocol import IGNORED
from trainer.track.method import Method

Place = tuple[int, int | None]


@pytest.mark.parametrize("best", [(-9, None), (-8, -6), (-3, -10), (4, 0), (-14, -1)])
def test_the_search_goes_on_until_no_neighbour_is_better(best: Place) -> None:
    tried: set[Place] = set()

    def loss(place: Place) -> float:
        tried.add(place)
        rate, decay = (0 if place[1] is None else place[1] + 11), place[0]
        at_rate, at_decay = (0 if best[1] is None else best[1] + 11), best[0]
        return float((rate - at_rate) ** 2 + (decay - at_decay) ** 2)

    assert climbed((-8, -6), tuning._neighbours, loss) == best
    assert {*tuning._neighbours(best)} <= tried


def test_a_search_leaves_rates_that_are_too_high() -> None:
    def loss(place: Place) -> float:
        return math.inf if place[0] > -12 else float(place[0] ** 2)

    assert climbed((-8, -6), tuning._neighbours, loss)[0] == -12


def test_grids_are_of_round_numbers() -> None:
    two, three = tuning._of_two, tuning._of_three
    assert [two(place) for place in range(-3, 3)] == [0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
    assert [three(place) for place in range(-3, 4)] == [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
    assert (three(FLATNESSES[0]), three(FLATNESSES[-1])) == (0.001, 5.0)


def test_a_grid_gives_what_single_passes_give() -> None:
    torch.manual_seed(0)
    nll = torch.rand(2, 5, dtype=torch.float64) * 3
    products = torch.randn(2, 5, 8, dtype=torch.float64)
    products[0, 0] = -torch.inf
    seen = Seen(products, torch.randint(0, 4, (2, 8)))
    targets = torch.randint(0, 4, (2, 5))
    targets[1, 3:] = IGNORED
    scored = targets != IGNORED
    grid = Grid([0.5, 1.0, 3.0])
    assert torch.equal(grid(nll, seen, targets), nll)
    for (i, flatness), (j, weight) in itertools.product(
        enumerate(grid.flatnesses), enumerate(WEIGHTS)
    ):
        (of_cache,) = seen.nats(targets, [flatness])
        expected = mixed(nll, of_cache, weight)[scored].sum()
        torch.testing.assert_close(grid.sums[i, j], expected)
    loss, row, weight = grid.best(8, lone_world())
    assert loss == pytest.approx(float(grid.sums.min()) / 8)
    assert float(grid.sums[row, WEIGHTS.index(weight)]) == float(grid.sums.min())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cache": 0}, "--cache 0 is below 1"),
        ({"cache_weight": 0.1, "cache_flatness": 1.0}, "need --cache"),
        ({"cache": 5, "cache_weight": 0.1}, "give both, or none"),
        ({"cache": 5, "cache_weight": 1.0, "cache_flatness": 1.0}, "not above 0 and below 1"),
        ({"cache": 5, "cache_weight": 0.5, "cache_flatness": math.nan}, "is not above 0"),
        ({"dynamic_rate": 0.1, "dynamic_decay": 0.0}, "need --dynamic"),
        ({"dynamic": "sgd", "dynamic_rate": 0.1}, "give both, or none"),
        ({"dynamic": "sgd", "dynamic_rate": -1.0, "dynamic_decay": 0.0}, "is not above 0"),
        ({"dynamic": "sgd", "dynamic_rate": 1.0, "dynamic_decay": 1.5}, "is not from 0 to 1"),
    ],
)
def test_settings_that_make_no_method_are_refused(values: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ImprovingOptions(**values)  # type: ignore[arg-type]


def test_what_lacks_settings_is_to_be_tuned() -> None:
    assert not ImprovingOptions().improves
    assert ImprovingOptions(cache=5).lacks_settings
    given = ImprovingOptions(cache=5, cache_weight=0.1, cache_flatness=2.0, dynamic="sgd")
    assert given.lacks_settings
    assert str(given.given) == "cache 5 (weight 0.1, flatness 2)"
    whole = ImprovingOptions(dynamic="rms", dynamic_rate=0.1, dynamic_decay=0.0)
    assert not whole.lacks_settings
    assert whole.given.key == (("dynamic", "rms", 0.1, 0.0),)


def test_tuned_settings_are_one_method_whatever_was_found() -> None:
    def key(weight: float, tuned_on: str | None) -> tuple[object, ...]:
        cache = {"states": 5, "weight": weight, "flatness": 1.0, "tuned_on": tuned_on}
        return Method.model_validate({"cache": cache}).key

    assert key(0.1, "a") == key(0.2, "a")
    assert key(0.1, "a") != key(0.1, "b")
    assert key(0.1, None) != key(0.2, None)
