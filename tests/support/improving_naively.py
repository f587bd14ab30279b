"""A cache and dynamic evaluation in loops over tokens and weights, in fp64, for tests."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.config.recipe import ScoringConfig
from trainer.data.corpus import Split
from trainer.data.rows import one_row
from trainer.protocol import Segment
from trainer.track.method import Cache, Dynamic

Read = tuple[list[float], list[list[float]]]
"""Nats of each token but the first, and the state that each was predicted from."""


def segments(split: Split, tgt_len: int, *, cutoffs: tuple[int, ...]) -> list[Segment]:
    """Return a split as one row's segments."""
    ids = np.asarray(split.tokens).astype(np.int64)
    return [
        one_row(
            ids[i : i + tgt_len][: len(ids) - 1 - i], ids[i + 1 : i + tgt_len + 1], cutoffs=cutoffs
        )
        for i in range(0, len(ids) - 1, tgt_len)
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
    moments = {name: value.double() for name, value in (second_moments or {}).items()}
    n_weights = sum(value.numel() for value in moments.values())
    mean = sum(math.sqrt(v) for value in moments.values() for v in value.flatten().tolist())
    mean /= n_weights or 1
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
        for name, weight in model.named_parameters():
            if weight.grad is None:
                continue
            old, grad, first = (x.flatten().tolist() for x in (weight, weight.grad, trained[name]))
            new = []
            for i, (w, g, w0) in enumerate(zip(old, grad, first, strict=True)):
                divisor, share = 1.0, dynamic.decay
                if dynamic.rule == "rms":
                    root = math.sqrt(float(moments[name].flatten()[i]))
                    divisor, share = root + epsilon * mean, min(dynamic.decay * root / mean, 1.0)
                new.append(w - dynamic.rate * g / divisor + share * (w0 - w))
            with torch.no_grad():
                weight.copy_(torch.tensor(new, dtype=torch.float64).view_as(weight))
    return nats, states


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
