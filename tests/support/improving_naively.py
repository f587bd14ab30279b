"""A cache and dynamic evaluation in loops over tokens and weights, in fp64, for tests."""

import copy
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.config.recipe import ScoringConfig
from trainer.data.corpus import Split
from trainer.data.rows import one_row
from trainer.protocol import IGNORED, Segment
from trainer.track.method import Cache, Dynamic, Method

Read = tuple[list[float], list[list[float]]]
"""Nats of each token but the first, and the state that each was predicted from."""


def segments(split: Split, tgt_len: int, *, cutoffs: tuple[int, ...]) -> list[Segment]:
    """Return a split as one row's segments."""
    ids = np.asarray(split.tokens).astype(np.int64)
    tokens, targets = ids[:-1], ids[1:]
    return [
        one_row(tokens[i : i + tgt_len], targets[i : i + tgt_len], cutoffs=cutoffs)
        for i in range(0, len(tokens), tgt_len)
    ]


def read(
    model: Any,
    split: Split,
    at: ScoringConfig,
    *,
    cutoffs: tuple[int, ...] = (),
    dynamic: Dynamic | None = None,
    second_moments: Mapping[str, Tensor] | None = None,
    epsilon: float = 0.0,
) -> Read:
    """Read a split in one row, and take a step after each segment if `dynamic` says so."""
    model = copy.deepcopy(model)
    trained = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    memory = model.empty_memory(1, mem_len=at.mem_len, dtype=torch.float64, device="cpu")
    how: dict[str, Any] = {"clamp_len": at.clamp_len, "same_length": at.same_length}
    nats: list[float] = []
    states: list[list[float]] = []
    for segment in segments(split, at.tgt_len, cutoffs=cutoffs):
        with torch.no_grad():
            log_probs, _ = model.predict(segment, memory, **how)
            hidden, _ = model.hidden(segment, memory, **how)
        targets = segment.targets_BT[0].tolist()
        nats += [-float(log_probs[0, i, target]) for i, target in enumerate(targets)]
        states += hidden[0].tolist()
        output = model(segment, memory, **how)
        memory = output.memory
        if dynamic is None:
            continue
        model.zero_grad()
        (output.loss_sum / at.tgt_len).backward()
        _step(model, trained, dynamic, second_moments or {}, epsilon)
    return nats, states


def _step(
    model: Any,
    trained: Mapping[str, Tensor],
    dynamic: Dynamic,
    second_moments: Mapping[str, Tensor],
    epsilon: float,
) -> None:
    """Take a step of dynamic evaluation with the gradients that are there, weight by weight."""
    roots = {
        name: [math.sqrt(value) for value in moment.double().flatten().tolist()]
        for name, moment in second_moments.items()
    }
    every = [root for of_one in roots.values() for root in of_one]
    mean = sum(every) / max(1, len(every))
    for name, weight in model.named_parameters():
        if weight.grad is None:
            continue
        old, grad, first = (x.flatten().tolist() for x in (weight, weight.grad, trained[name]))
        new = []
        for i, (w, g, w0) in enumerate(zip(old, grad, first, strict=True)):
            divisor, share = 1.0, dynamic.decay
            if dynamic.rule == "rms":
                root = roots[name][i]
                divisor, share = root + epsilon * mean, min(dynamic.decay * root / mean, 1.0)
            new.append(w - dynamic.rate * g / divisor + share * (w0 - w))
        with torch.no_grad():
            weight.copy_(torch.tensor(new, dtype=torch.float64).view_as(weight))


def cached(found: Read, split: Split, cache: Cache, *, cut_documents: bool = False) -> list[float]:
    """Return the nats of the mixture of a model and a cache, by loops over tokens."""
    ids = np.asarray(split.tokens).astype(np.int64).tolist()
    nats, states = found
    starts = {*np.asarray(split.document_starts).tolist()}
    mixture, begun = [], 0
    for t, (own, state) in enumerate(zip(nats, states, strict=True)):
        if cut_documents and t in starts:
            begun = t
        total = of_target = 0.0
        for i in range(max(begun, t - cache.states), t):
            product = sum(a * b for a, b in zip(state, states[i], strict=True))
            weight = math.exp(cache.flatness * product)
            total += weight
            of_target += weight if ids[i + 1] == ids[t + 1] else 0.0
        p = math.exp(-own)
        if total:
            p = (1 - cache.weight) * p + cache.weight * of_target / total
        mixture.append(-math.log(p))
    return mixture


def naive_log_probs(
    model: Any,
    text: list[int],
    method: Method,
    at: ScoringConfig,
    *,
    n_prompt: int,
    cutoffs: tuple[int, ...],
    epsilon: float,
    second_moments: Mapping[str, Tensor],
) -> Tensor:
    """Return the log-probabilities after a text, of which the prompt is read in pieces of tgt_len.

    The other tokens come one by one, as sampling reads them.
    """
    model, ids = copy.deepcopy(model), np.array(text, np.int64)
    how: dict[str, Any] = {"clamp_len": at.clamp_len, "same_length": at.same_length}
    memory = model.empty_memory(1, mem_len=at.mem_len, dtype=torch.float64, device="cpu")
    trained = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    begins = [*range(0, n_prompt - 1, at.tgt_len), *range(n_prompt - 1, len(text))]
    states: list[Tensor] = []
    log_probs = torch.empty(0)
    for begin, end in pairwise([*begins, len(text)]):
        has_targets = end < len(text)
        targets = ids[begin + 1 : end + 1] if has_targets else np.full(1, IGNORED)
        segment = one_row(ids[begin:end], targets, cutoffs=cutoffs)
        with torch.no_grad():
            hidden, _ = model.hidden(segment, memory, **how)
            log_probs = model.predict(segment, memory, **how)[0][0, -1]
        states += list(hidden[0].detach())
        output = model(segment, memory, **how)
        memory = output.memory
        if method.dynamic is not None and end <= n_prompt - 1:
            model.zero_grad()
            (output.loss_sum / at.tgt_len).backward()
            _step(model, trained, method.dynamic, second_moments, epsilon)
    cache = method.cache
    if cache is None:
        return log_probs
    last = len(text) - 1
    p_cache = torch.zeros(len(log_probs), dtype=torch.float64)
    for i in range(max(0, last - cache.states), last):
        p_cache[text[i + 1]] += math.exp(cache.flatness * float(states[last] @ states[i]))
    mixture = (1 - cache.weight) * log_probs.exp() + cache.weight * p_cache / p_cache.sum()
    return mixture.log()


def moments_of(model: torch.nn.Module, *, seed: int = 0) -> dict[str, Tensor]:
    """Return second moments, some of which are 0."""
    draws = torch.Generator().manual_seed(seed)
    found = {}
    for name, weight in model.named_parameters():
        value = torch.rand(weight.shape, generator=draws, dtype=torch.float64).square() * 1e-3
        found[name] = value.float().masked_fill_(value < 1e-5, 0)
    return found
