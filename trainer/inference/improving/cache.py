"""A continuous cache (Grave et al. 2017, arXiv 1612.04426): the words after states like this one.

The cache of a row holds its newest C hidden states hᵢ, each with the word that came after it. With
h the state from which a word w is predicted, flatness θ and weight λ:

    p_cache(w) ∝ Σᵢ 1[w came after hᵢ] exp(θ h·hᵢ)
    p(w) = (1 − λ) p_model(w) + λ p_cache(w)

Where the cache is empty, the model predicts alone. It is emptied where the model's memory is cut:
at a text's beginning, and at a document's where memory ends there. All states of a segment are
compared at once, and none sees what comes after it. So the nats depend on the states alone, not on
where segments begin.

B rows · T tgt_len · D width · K states kept so far, at most C · S = K+T · N rows of any kind ·
V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from trainer.inference.score import nats_of
from trainer.protocol import IGNORED, Memory, Output, Reach, Segment
from trainer.track.method import Cache


class StatesReader(Protocol):
    """A model that tells its hidden states, as `trainer.protocol.forward_with_hidden` does."""

    def __call__(
        self, segment: Segment, memory: Memory, *, clamp_len: int | None, same_length: bool
    ) -> tuple[Output, Tensor]:
        """Read a segment; return the output and the hidden states, `[B, T, D]`."""
        ...


class CacheMemory(NamedTuple):
    """The memory of a model, and the cache of each row."""

    of_model: Memory
    states_BKD: Tensor | None
    """The newest states, newest last; None before the first segment."""
    tokens_BK: Tensor
    """The token that was read with each state: a state's word is the token after it."""
    valid_B: Tensor
    """The number of newest states that are of the row's text."""


class Seen(NamedTuple):
    """The part of the cache that the queries of a segment see."""

    products_BTS: Tensor
    """h·hᵢ, in fp32 at least; -inf where a query does not see the state."""
    words_BS: Tensor
    """The word after each state."""

    def nats(self, targets_BT: Tensor, flatnesses: Sequence[float]) -> Iterator[Tensor]:
        """Yield −log p_cache of each target, `[B, T]`, for each flatness.

        It is inf where no state seen has that word after it, and nan where none is seen.
        """
        is_other_BTS = self.words_BS[:, None] != targets_BT[..., None]
        for flatness in flatnesses:
            scores_BTS = self.products_BTS * flatness
            total_BT = scores_BTS.logsumexp(-1)
            yield total_BT - scores_BTS.masked_fill_(is_other_BTS, -math.inf).logsumexp(-1)

    def log_probs(self, flatness: float, *, n_words: int) -> Tensor:
        """Return the log-probabilities of all words, `[B, T, V]`; nan where no state is seen."""
        shares_BTS = (self.products_BTS * flatness).softmax(-1)
        words_BTS = self.words_BS[:, None].expand_as(shares_BTS)
        empty_BTV = shares_BTS.new_zeros(*shares_BTS.shape[:2], n_words)
        return empty_BTV.scatter_add(-1, words_BTS, shares_BTS).log()


def mixed(nats: Tensor, of_cache: Tensor, weight: float) -> Tensor:
    """Return the nats of the mixture of model and cache; where the cache's are nan, the model's."""
    logs = math.log1p(-weight) - nats, math.log(weight) - of_cache
    return torch.where(of_cache.isnan(), nats, torch.logaddexp(*logs).neg())


def seen(memory: CacheMemory, segment: Segment, hidden_BTD: Tensor, *, n_states: int) -> Seen:
    """Return what the queries of a segment see: each the C states before its own."""
    keys_BSD, tokens_BS = _joined(memory, segment, hidden_BTD)
    n_kept, tgt_len = tokens_BS.shape[1] - segment.tokens_BT.shape[1], segment.tokens_BT.shape[1]
    products_BTS = _wide(hidden_BTD) @ keys_BSD[:, :-1].mT
    device = products_BTS.device
    places_S = torch.arange(n_kept + tgt_len - 1, device=device)
    own_T = n_kept + torch.arange(tgt_len, device=device)
    from_BT = torch.maximum((own_T - n_states)[None], (n_kept - memory.valid_B)[:, None])
    if segment.starts_BT is not None:
        begun_BT = torch.where(segment.starts_BT >= 0, n_kept + segment.starts_BT, 0)
        from_BT = torch.maximum(from_BT, begun_BT)
    is_seen_BTS = (places_S >= from_BT[..., None]) & (places_S < own_T[:, None])
    return Seen(products_BTS.masked_fill(~is_seen_BTS, -math.inf), tokens_BS[:, 1:])


def remembered(
    memory: CacheMemory, segment: Segment, hidden_BTD: Tensor, after: Memory, *, n_states: int
) -> CacheMemory:
    """Return the memory after a segment, whose padding is left out."""
    keys_BSD, tokens_BS = _joined(memory, segment, hidden_BTD)
    n_all, tgt_len = tokens_BS.shape[1], segment.tokens_BT.shape[1]
    valid_B = memory.valid_B + segment.lengths_B
    if segment.starts_BT is not None:
        last_B1 = (segment.lengths_B - 1).clamp_min(0)[:, None]
        start_B = segment.starts_BT.gather(1, last_B1)[:, 0]
        is_cut_B = (segment.lengths_B > 0) & (start_B >= 0)
        valid_B = torch.where(is_cut_B, segment.lengths_B - start_B, valid_B)
    n_after = min(n_states, n_all)
    if segment.whole:
        keys_BKD, tokens_BK = keys_BSD[:, -n_after:], tokens_BS[:, -n_after:]
    else:
        ends_B1 = (n_all - tgt_len + segment.lengths_B)[:, None]
        places_K = torch.arange(-n_after, 0, device=ends_B1.device)
        places_BK = (ends_B1 + places_K).clamp_min(0)
        keys_BKD = keys_BSD.gather(1, places_BK[..., None].expand(-1, -1, keys_BSD.shape[-1]))
        tokens_BK = tokens_BS.gather(1, places_BK)
    return CacheMemory(after, keys_BKD, tokens_BK, valid_B.clamp_max(n_after))


def _joined(memory: CacheMemory, segment: Segment, hidden_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """Return all states, `[B, S, D]`, and their tokens: those kept, and the segment's."""
    states_BTD, kept = _wide(hidden_BTD), memory.states_BKD
    keys_BSD = states_BTD if kept is None else torch.cat([kept, states_BTD], dim=1)
    return keys_BSD, torch.cat([memory.tokens_BK, segment.tokens_BT], dim=1)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Mix(Protocol):
    """A function: the nats that a reader with a cache gives."""

    def __call__(self, nll_BT: Tensor, of_cache: Seen, targets_BT: Tensor, /) -> Tensor:
        """Return nats, `[B, T]`, given those of the model; those without a target do not count."""
        ...


def mixing(cache: Cache) -> Mix:
    """Return the mixture of model and cache."""

    def mix(nll_BT: Tensor, of_cache: Seen, targets_BT: Tensor, /) -> Tensor:
        (cache_BT,) = of_cache.nats(targets_BT, [cache.flatness])
        return mixed(nll_BT.to(cache_BT.dtype), cache_BT, cache.weight)

    return mix


class CachedReader:
    """A `trainer.inference.score.Forward` with a cache; its memory is a `CacheMemory`."""

    def __init__(self, read: StatesReader, *, n_states: int, mix: Mix) -> None:
        """Read with a model, and keep so many states of each row."""
        self.read, self.n_states, self.mix = read, n_states, mix

    def reach(self, of_model: Reach) -> Reach:
        """Return how far back predictions look: to the oldest state, and as far as that looks."""

        def reach(mem_len: int, tgt_len: int, /) -> int | None:
            further = of_model(mem_len, tgt_len)
            return None if further is None else further + -(-self.n_states // tgt_len)

        return reach

    def __call__(
        self, segment: Segment, memory: Any, *, clamp_len: int | None, same_length: bool
    ) -> Output:
        """Read a segment; the nats are those that `mix` gives."""
        lengths: dict[str, Any] = {"clamp_len": clamp_len, "same_length": same_length}
        output, hidden_BTD = self.read(segment, memory.of_model, **lengths)
        n_states, targets_BT = self.n_states, segment.targets_BT
        of_cache = seen(memory, segment, hidden_BTD, n_states=n_states)
        nll_BT = self.mix(nats_of(output), of_cache, targets_BT)
        nll_BT = nll_BT.masked_fill(targets_BT == IGNORED, 0)
        after = remembered(memory, segment, hidden_BTD, output.memory, n_states=n_states)
        return Output(nll_BT.double().sum(), nll_BT, after)


def empty_cache(of_model: Memory, n_rows: int, device: torch.device) -> CacheMemory:
    """Return the memory of rows that have read nothing."""
    tokens_B0 = torch.zeros(n_rows, 0, dtype=torch.int64, device=device)
    return CacheMemory(of_model, None, tokens_B0, tokens_B0.sum(-1))
