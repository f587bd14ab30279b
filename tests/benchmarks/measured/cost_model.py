"""What a training step computes and moves, counted from a model's sizes; fp32, on a CPU.

What is computed is `trainer.budget.flops`'s count. Of the words of `Dims`: N = n_streams·tgt_len
tokens of a rank, S = mem_len + tgt_len keys, A = n_head·d_head, D = d_model, F = d_inner.
"""

from dataclasses import dataclass

import numpy as np
from measured.dims import Dims, clusters

from trainer.budget import flops
from trainer.budget.activations import PassSize
from trainer.config.model_settings import ModelConfig

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
    """Work of one rank in one step."""

    flops: float
    n_bytes: float

    def seconds(self, *, flops_per_s: float, bytes_per_s: float) -> float:
        """Return the seconds of one after the other, at these rates."""
        return self.flops / flops_per_s + self.n_bytes / bytes_per_s


def n_parameters(dims: Dims) -> int:
    """Return elements of all parameters, embedding and softmax tied."""
    width = dims.n_head * dims.d_head
    attention = 5 * dims.d_model * width  # queries, keys, values, positions and out
    feed_forward = 2 * dims.d_model * dims.d_inner + dims.d_inner + dims.d_model
    norms = 4 * dims.d_model
    words = (dims.vocab_size + len(dims.cutoffs)) * (dims.d_model + 1)
    return dims.n_layer * (attention + feed_forward + norms) + words + 2 * width


def attention(dims: Dims) -> Work:
    """Return a layer's work: five projections, two of them over memory too, three products."""
    size = _size(dims)
    keys, scores = size.n_rows * size.n_keys, size.n_positions * size.n_keys
    passes = _SCORE_PASSES * scores * dims.n_head + 2 * _HIDDEN_PASSES * keys * dims.d_model / 3
    return Work(flops.TRAINING * flops.attention(_model(dims), size), _FLOAT * passes)


def feed_forward(dims: Dims) -> Work:
    """Return the work of one layer."""
    tokens = dims.n_streams * dims.tgt_len
    passes = tokens * (_INNER_PASSES * dims.d_inner + _HIDDEN_PASSES * dims.d_model / 3)
    computed = flops.TRAINING * flops.feed_forward(_model(dims), _size(dims))
    return Work(computed, _FLOAT * passes)


def softmax(dims: Dims) -> Work:
    """Return the work of every token's logits in the head, and in a tail for its own tokens."""
    tokens = dims.n_streams * dims.tgt_len
    (head, _), *tails = clusters(dims)
    logits = tokens * (head + len(tails) + sum(n_words * share for n_words, share in tails))
    computed = flops.softmax(
        _model(dims),
        _size(dims),
        tables=[(n_words, dims.d_model) for n_words, _ in clusters(dims)],
        shares=[1.0, *(share for _, share in tails)],
    )
    return Work(flops.TRAINING * computed, _FLOAT * _LOGIT_PASSES * logits)


def _model(dims: Dims) -> ModelConfig:
    """Return the layers; tables are as wide as the model."""
    return ModelConfig(
        n_layer=dims.n_layer,
        d_model=dims.d_model,
        n_head=dims.n_head,
        d_head=dims.d_head,
        d_inner=dims.d_inner,
    )


def _size(dims: Dims) -> PassSize:
    return PassSize(n_rows=dims.n_streams, tgt_len=dims.tgt_len, mem_len=dims.mem_len)


def step(dims: Dims) -> Work:
    """Return the work of a rank's step, but for its messages."""
    parts = [softmax(dims), *[part(dims) for part in (attention, feed_forward)] * dims.n_layer]
    moved = _FLOAT * _PARAMETER_PASSES * n_parameters(dims)
    return Work(sum(part.flops for part in parts), moved + sum(part.n_bytes for part in parts))


def fit(measured: list[tuple[Work, float]]) -> dict[str, float]:
    """Return the two rates that come nearest to the measured seconds, relative errors squared.

    Where one of them would be negative, the other does all.
    """
    target = np.ones(len(measured))
    rows = np.array([[work.flops / s, work.n_bytes / s] for work, s in measured])
    times, *_ = np.linalg.lstsq(rows, target, rcond=None)
    if times.min() <= 0:
        alone = rows.sum(axis=0) / (rows**2).sum(axis=0)
        times = np.where(times > 0, alone, 1e-30)
    return {"flops_per_s": 1 / float(times[0]), "bytes_per_s": 1 / float(times[1])}
