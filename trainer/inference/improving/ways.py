"""Ways of reading a text, as a scoring takes them: plain, or by a method that improves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from trainer.inference.improving.cache import (
    CachedReader,
    Mix,
    StatesReader,
    empty_cache,
    mixing,
)
from trainer.inference.improving.dynamic import Learner
from trainer.inference.score import Forward
from trainer.inference.trained import TrainedModel
from trainer.protocol import Memory, Output, Reach, Segment, forward_with_hidden, reach_of
from trainer.track.method import Dynamic, Method


@dataclass(frozen=True, kw_only=True)
class Way:
    """A reader, as `trainer.inference.score.score` takes it."""

    forward: Forward
    first_memory: Callable[[int, int], Memory]
    reach: Reach
    keeps_segments: bool = False
    """True if nats depend on where segments begin, whatever the lengths are."""


def plain_way(trained: TrainedModel, *, as_fairseq: bool = False) -> Way:
    """Return the way in which the weights alone predict."""
    return Way(
        forward=trained,
        first_memory=trained.zero_memory if as_fairseq else trained.reading_memory,
        reach=reach_of(trained.module, n_layer=trained.experiment.model.n_layer),
    )


def improved_way(trained: TrainedModel, method: Method, *, tgt_len: int) -> Way:
    """Return the way of a method; dynamic evaluation begins with the trained weights.

    Raises:
        InputError: second moments are missing.
    """
    if method.cache is None:
        return _uncached(trained, method.dynamic, tgt_len=tgt_len)[0]
    mix = mixing(method.cache)
    return cached_way(
        trained, method.dynamic, n_states=method.cache.states, mix=mix, tgt_len=tgt_len
    )


def cached_way(
    trained: TrainedModel, dynamic: Dynamic | None, *, n_states: int, mix: Mix, tgt_len: int
) -> Way:
    """Return the way of a cache of so many states, whose nats `mix` gives."""
    way, read = _uncached(trained, dynamic, tgt_len=tgt_len)
    reader = CachedReader(read, n_states=n_states, mix=mix)

    def first_memory(n_rows: int, mem_len: int) -> Memory:
        of_model = way.first_memory(n_rows, mem_len)
        return cast(Memory, empty_cache(of_model, n_rows, trained.device))

    return Way(
        forward=reader,
        first_memory=first_memory,
        reach=reader.reach(way.reach),
        keeps_segments=way.keeps_segments,
    )


def _uncached(
    trained: TrainedModel, dynamic: Dynamic | None, *, tgt_len: int
) -> tuple[Way, StatesReader]:
    """Return the way without a cache, and the reader that tells its states."""
    plain = plain_way(trained)
    if dynamic is None:

        def read(
            segment: Segment, memory: Memory, *, clamp_len: int | None, same_length: bool
        ) -> tuple[Output, Tensor]:
            with trained.autocast():
                return forward_with_hidden(
                    trained.module, segment, memory, clamp_len=clamp_len, same_length=same_length
                )

        return plain, read
    moments = trained.second_moments
    learner = Learner(trained.module, dynamic, tgt_len=tgt_len, second_moments=moments)
    way = Way(
        forward=learner, first_memory=learner.first_memory, reach=plain.reach, keeps_segments=True
    )
    return way, learner.states
