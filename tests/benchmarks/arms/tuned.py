"""An arm at its best rate, found by complete runs, and complete runs of shorter lengths beside."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise, product
from typing import NamedTuple

from arms.arm import Arm, Mean, Run, Trial
from arms.tuning import walk

#: Steps of the grid to one side of the recipe's rate.
MOST_STEPS = 8


class Plan(NamedTuple):
    """What is run of every arm."""

    n_tokens: int
    """Tokens to train on."""
    shares: tuple[float, ...]
    """Shorter lengths, as shares of these tokens, ascending."""
    seeds: tuple[int, ...]
    n_tuning: int
    """The first so many seeds choose the rate."""
    factor: float
    """Between two rates of the grid."""


class Point(NamedTuple):
    """Complete runs of one length."""

    n_tokens: int
    mean: Mean


class Spent(NamedTuple):
    """What an arm needs for a loss."""

    n_tokens: float
    cpu_s: float


class Tuned(NamedTuple):
    """An arm's runs."""

    arm: Arm
    rate: float
    rates: dict[float, Mean]
    """Every rate at which the tuning seeds were run with all tokens, ascending; of the best one
    the runs of all seeds."""
    points: tuple[Point, ...]
    """The best rate's lengths, ascending; the last is of all tokens."""

    @property
    def best(self) -> Mean:
        """Return the runs at the best rate with all tokens."""
        return self.points[-1].mean

    def spent_to(self, loss: float) -> Spent | None:
        """Return tokens and processor seconds to a loss; None where all tokens do not suffice.

        Between two lengths both are taken to grow as tokens' logarithm falls with the loss. Of a
        loss that the shortest runs undercut, those tell, which is more than it needs.
        """
        first = self.points[0]
        if first.mean.loss <= loss:
            return Spent(first.n_tokens, first.mean.cpu_s)
        for before, after in pairwise(self.points):
            if after.mean.loss <= loss:
                share = (before.mean.loss - loss) / (before.mean.loss - after.mean.loss)
                ratio = (after.n_tokens / before.n_tokens) ** share
                tokens = before.n_tokens * ratio
                part = (tokens - before.n_tokens) / (after.n_tokens - before.n_tokens)
                cpu_s = before.mean.cpu_s + part * (after.mean.cpu_s - before.mean.cpu_s)
                return Spent(tokens, cpu_s)
        return None


def tune(arm: Arm, plan: Plan, run: Callable[[Sequence[Trial]], list[Run]]) -> Tuned:
    """Find an arm's best rate: with the first seed, then from there with all that shall choose it.

    Shorter lengths are run at the rate that is the best for all tokens, which favours the arm
    that needs all of them.

    Args:
        arm: recipe and size.
        plan: what to run.
        run: does trials of the arm, and gives their runs in order.
    """
    own = arm.experiment.optim.lr

    def rate(place: int) -> float:
        return float(f"{own * plan.factor**place:.3g}")

    def means(rates: Sequence[float], n_tokens: int, seeds: Sequence[int]) -> list[Mean]:
        runs = run([Trial(*one, seed) for one in product(rates, [n_tokens]) for seed in seeds])
        return [Mean.of(runs[i : i + len(seeds)]) for i in range(0, len(runs), len(seeds))]

    rates: dict[float, Mean] = {}

    def losses(places: Iterable[int], seeds: Sequence[int]) -> dict[int, float]:
        wanted = list(places)
        found = means(list(map(rate, wanted)), plan.n_tokens, seeds)
        rates.update(zip(map(rate, wanted), found, strict=True))
        return {place: rates[rate(place)].loss for place in wanted}

    place = 0
    for n_seeds in sorted({1, plan.n_tuning}):
        rates.clear()
        place = walk(place, partial(losses, seeds=plan.seeds[:n_seeds]), most=MOST_STEPS)
    best = rate(place)
    (rates[best],) = means([best], plan.n_tokens, plan.seeds)
    lengths = [math.floor(share * plan.n_tokens) for share in plan.shares]
    shorter = [
        Point(n_tokens, mean)
        for n_tokens in lengths
        for mean in means([best], n_tokens, plan.seeds)
    ]
    points = (*shorter, Point(plan.n_tokens, rates[best]))
    return Tuned(arm, best, dict(sorted(rates.items())), points)
