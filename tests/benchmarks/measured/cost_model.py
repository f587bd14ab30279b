"""What a training step computes and moves, counted from a model's sizes; fp32, on a CPU.

Of the words of `Dims`: N = n_streams·tgt_len tokens of a rank, S = mem_len + tgt_len keys,
A = n_head·d_head, D = d_model, F = d_inner.
"""

from dataclasses import dataclass

import numpy as np
from measured.dims import Dims, clusters

#: A backward pass multiplies twice what the forward pass does: for the input and for the weight.
_FORWARD_AND_BACKWARD = 3
_FLOAT = 4

#: How often a step reads or writes an element, the passes of its kernels counted: 8 forward and 11
#: backward of a score (`cpu_attention`), 10 of a logit (`linear_nll`), of a hidden state all of
#: residuals, norms, dropout and copies between heads and streams.
_SCORE_PASSES, _LOGIT_PASSES, _HIDDEN_PASSES, _INNER_PASSES = 19, 10, 60, 10
#: And of a parameter: forward, backward, its gradient, the gradient's norm and clipping, and Adam's
#: four reads and three writes.
_PARAMETER_PASSES = 13


@dataclass(frozen=True)
class Work:
    """Of one rank in one step."""

    flops: float
    n_bytes: float

    def seconds(self, *, flops_per_s: float, bytes_per_s: float) -> float:
        """One after the other, at these rates."""
        return self.flops / flops_per_s + self.n_bytes / bytes_per_s


def n_parameters(dims: Dims) -> int:
    """Elements of all parameters, embedding and softmax tied."""
    width = dims.n_head * dims.d_head
    attention = 5 * dims.d_model * width  # queries, keys, values, positions and out
    feed_forward = 2 * dims.d_model * dims.d_inner + dims.d_inner + dims.d_model
    norms = 4 * dims.d_model
    words = (dims.vocab_size + len(dims.cutoffs)) * (dims.d_model + 1)
    return dims.n_layer * (attention + feed_forward + norms) + words + 2 * width


def attention(dims: Dims) -> Work:
    """Of one layer: five projections, those of keys and values over memory too, three products."""
    n_keys, width = dims.mem_len + dims.tgt_len, dims.n_head * dims.d_head
    tokens, keys = dims.n_streams * dims.tgt_len, dims.n_streams * n_keys
    projections = 2 * dims.d_model * width * (2 * tokens + 2 * keys + n_keys)
    scores = tokens * n_keys
    flops = projections + 3 * 2 * scores * width
    passes = _SCORE_PASSES * scores * dims.n_head + 2 * _HIDDEN_PASSES * keys * dims.d_model / 3
    return Work(_FORWARD_AND_BACKWARD * flops, _FLOAT * passes)


def feed_forward(dims: Dims) -> Work:
    """Of one layer."""
    tokens = dims.n_streams * dims.tgt_len
    flops = 2 * 2 * tokens * dims.d_model * dims.d_inner
    passes = tokens * (_INNER_PASSES * dims.d_inner + _HIDDEN_PASSES * dims.d_model / 3)
    return Work(_FORWARD_AND_BACKWARD * flops, _FLOAT * passes)


def softmax(dims: Dims) -> Work:
    """Every token's logits in the head, and those of a tail for the tokens that are in it."""
    tokens = dims.n_streams * dims.tgt_len
    (head, _), *tails = clusters(dims)
    logits = tokens * (head + len(tails) + sum(n_words * share for n_words, share in tails))
    flops = 2 * logits * dims.d_model
    return Work(_FORWARD_AND_BACKWARD * flops, _FLOAT * _LOGIT_PASSES * logits)


def step(dims: Dims) -> Work:
    """All of a rank's step but its messages."""
    parts = [softmax(dims), *[part(dims) for part in (attention, feed_forward)] * dims.n_layer]
    moved = _FLOAT * _PARAMETER_PASSES * n_parameters(dims)
    return Work(sum(part.flops for part in parts), moved + sum(part.n_bytes for part in parts))


def fit(measured: list[tuple[Work, float]]) -> dict[str, float]:
    """The two rates that come nearest to the measured seconds, relative errors squared.

    Where one of them would be negative, the other does all.
    """
    target = np.ones(len(measured))
    rows = np.array([[work.flops / s, work.n_bytes / s] for work, s in measured])
    times, *_ = np.linalg.lstsq(rows, target, rcond=None)
    if times.min() <= 0:
        alone = rows.sum(axis=0) / (rows**2).sum(axis=0)
        times = np.where(times > 0, alone, 1e-30)
    return {"flops_per_s": 1 / float(times[0]), "bytes_per_s": 1 / float(times[1])}
