"""Settings of a method, tuned on the valid split alone.

Dynamic evaluation is tuned first, without a cache: from a first rate and decay the search goes to
the best of its neighbours, as long as one is better: rates are 1, 2, 5, 10, … times a power of ten,
decays 1, 3, 10, …, or 0. So it ends inside of what it has tried. A rate with which weights become
infinite is worse than any other.

Of a cache, one pass scores all weights with all flatnesses: of 1, 2, 5, 10, …, as many as need no
pass of their own; another pass follows while the best flatness is the first or last one. The
weights go from nearly none of the cache to nearly nothing else.
"""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trainer.data.corpus import Split
from trainer.distributed import World, sum_floats
from trainer.errors import InputError, NonFiniteError
from trainer.inference.improving.cache import Seen, mixed
from trainer.inference.improving.options import ImprovingOptions
from trainer.inference.improving.ways import Way, cached_way, improved_way
from trainer.inference.score import Score
from trainer.inference.trained import TrainedModel
from trainer.protocol import IGNORED
from trainer.track.method import Cache, Dynamic, Method, Rule

log = logging.getLogger(__name__)

#: Weights of a cache that are tried.
WEIGHTS = (
    *(0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.07),
    *(0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99),
)
#: Places in 1, 2, 5, 10, … of the least and largest flatness tried first: 0.001 and 5.
FLATNESSES = (-9, 2)
#: Beyond these all states weigh the same, or only the nearest one.
_FLATTEST, _STEEPEST = -24, 18
#: Places of the first rate in 1, 2, 5, 10, …, and of the first decay in 1, 3, 10, …: 0.001.
FIRST: dict[Rule, tuple[int, int]] = {"sgd": (-4, -6), "rms": (-13, -6)}
#: The smallest decay but 0.
_LEAST_DECAY = -10

ScoreWay = Callable[[Way, str], Score]
"""A function: the score of valid read in a way, with what is told meanwhile."""
_Place = tuple[int, int | None]


def beginning(split: Split, n_tokens: int | None) -> Split:
    """Return the first tokens of a split, whose hash says how many; all of it by default."""
    if n_tokens is None or n_tokens >= split.n_tokens:
        return split
    starts = split.document_starts
    return replace(
        split,
        tokens=split.tokens[:n_tokens],
        document_starts=starts[starts < n_tokens],
        n_tokens=n_tokens,
        hash=f"{split.hash}:{n_tokens}",
    )


def tuned(
    options: ImprovingOptions,
    trained: TrainedModel,
    valid: Split,
    *,
    tgt_len: int,
    score_way: ScoreWay,
    world: World,
) -> Method:
    """Return what is asked for, with the settings that are given or are the best on valid.

    Collective.

    Args:
        options: what is asked for.
        trained: the model.
        valid: the split on which `score_way` scores.
        tgt_len: tokens of a whole segment.
        score_way: see `ScoreWay`.
        world: this process among its peers.

    Raises:
        InputError: no setting that was tried gives finite nats.
    """
    method = options.given
    if options.dynamic is not None and method.dynamic is None:
        dynamic = _tuned_dynamic(options.dynamic, trained, valid, tgt_len, score_way)
        method = method.model_copy(update={"dynamic": dynamic})
    if options.cache is not None and method.cache is None:
        cache = _tuned_cache(
            options.cache, method.dynamic, trained, valid, tgt_len, score_way, world
        )
        method = method.model_copy(update={"cache": cache})
    return method


def _tuned_dynamic(
    rule: Rule, trained: TrainedModel, valid: Split, tgt_len: int, score_way: ScoreWay
) -> Dynamic:
    losses: dict[_Place, float] = {}

    def dynamic_at(place: _Place) -> Dynamic:
        rate, decay = place
        return Dynamic(
            rule=rule,
            rate=_of_three(rate),
            decay=0.0 if decay is None else _of_two(decay),
            tuned_on=valid.hash,
        )

    def loss(place: _Place) -> float:
        """Return the loss on valid of a rate and a decay; each is read once."""
        if place not in losses:
            dynamic = dynamic_at(place)
            way = improved_way(trained, Method(dynamic=dynamic), tgt_len=tgt_len)
            try:
                losses[place] = score_way(way, str(dynamic)).loss
            except NonFiniteError:
                losses[place] = math.inf
            log.info("%s on %s: %.4f nats per token", dynamic, valid.name, losses[place])
        return losses[place]

    best = climbed(FIRST[rule], _neighbours, loss)
    if not math.isfinite(losses[best]):
        raise InputError(f"--dynamic {rule} gives no finite loss on {valid.name}")
    return dynamic_at(best)


def climbed(
    start: _Place, neighbours: Callable[[_Place], Iterable[_Place]], loss: Callable[[_Place], float]
) -> _Place:
    """Return a place none of whose neighbours is better, going always to the best of them.

    From a place of an infinite loss the search goes to smaller rates.
    """
    best = start
    while math.isinf(loss(best)) and best[0] > start[0] - 16:
        best = best[0] - 1, best[1]
    while True:
        nearest = min(neighbours(best), key=loss)
        if not loss(nearest) < loss(best):
            return best
        best = nearest


def _neighbours(place: _Place) -> list[_Place]:
    rate, decay = place
    below = None if decay is None or decay == _LEAST_DECAY else decay - 1
    above = _LEAST_DECAY if decay is None else min(0, decay + 1)
    return [(rate - 1, decay), (rate + 1, decay), (rate, below), (rate, above)]


def _of_two(place: int) -> float:
    """Return the value at a place of …, 0.3, 1, 3, 10, …; 1 is at 0."""
    decade, rest = divmod(place, 2)
    return float(f"{(1, 3)[rest]}e{decade}")


def _of_three(place: int) -> float:
    """Return the value at a place of …, 0.5, 1, 2, 5, 10, …; 1 is at 0."""
    decade, rest = divmod(place, 3)
    return float(f"{(1, 2, 5)[rest]}e{decade}")


@dataclass
class Grid:
    """Sums of nats for flatnesses and weights of a cache; a `Mix` that gives the model's nats."""

    flatnesses: list[float]
    sums: Tensor = field(init=False)
    """A row per flatness, a column per weight, fp64."""

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.sums = torch.zeros(len(self.flatnesses), len(WEIGHTS), dtype=torch.float64)

    def __call__(self, nll_BT: Tensor, of_cache: Seen, targets_BT: Tensor, /) -> Tensor:
        """Add a segment's nats of all mixtures."""
        is_scored_BT = targets_BT != IGNORED
        if is_scored_BT.any():
            nats_N = nll_BT[is_scored_BT].double()
            for row, cache_BT in enumerate(of_cache.nats(targets_BT, self.flatnesses)):
                cache_N = cache_BT[is_scored_BT].double()
                nats = [mixed(nats_N, cache_N, weight).sum() for weight in WEIGHTS]
                self.sums[row] += torch.stack(nats).cpu()
        return nll_BT

    def best(self, n_tokens: int, world: World) -> tuple[float, int, float]:
        """Return the least loss, the row of its flatness, and its weight. Collective."""
        sums = torch.tensor(sum_floats(self.sums.flatten().tolist(), world), dtype=torch.float64)
        place = int(sums.argmin())
        return float(sums[place]) / n_tokens, place // len(WEIGHTS), WEIGHTS[place % len(WEIGHTS)]


def _tuned_cache(
    n_states: int,
    dynamic: Dynamic | None,
    trained: TrainedModel,
    valid: Split,
    tgt_len: int,
    score_way: ScoreWay,
    world: World,
) -> Cache:
    places = range(FLATNESSES[0], FLATNESSES[1] + 1)
    while True:
        grid = Grid([_of_three(place) for place in places])
        way = cached_way(trained, dynamic, n_states=n_states, mix=grid, tgt_len=tgt_len)
        without = score_way(way, f"cache {n_states}")
        loss, row, weight = grid.best(without.n_tokens, world)
        cache = Cache(
            states=n_states, weight=weight, flatness=grid.flatnesses[row], tuned_on=valid.hash
        )
        if world.is_main:
            log.info(
                "%s on %s: %.4f nats per token, %.4f without",
                *(cache, valid.name, loss, without.loss),
            )
        if not math.isfinite(loss):
            raise InputError(f"--cache {n_states} gives no finite loss on {valid.name}")
        middle = places[row]
        if 0 < row < len(places) - 1 or middle in (_FLATTEST, _STEEPEST):
            return cache
        places = range(max(_FLATTEST, middle - 3), min(_STEEPEST, middle + 3) + 1)
