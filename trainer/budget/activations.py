"""Bytes that a pass over a segment keeps and works with, computed from sizes alone.

Each back end keeps for the backward pass what its autograd functions save. The counts here name the
function that they follow, and cover its large tensors only.

B streams · T tgt_len · M mem_len · S = M+T · N = B·T · K = B·S · H heads · X = H·d_head · D d_model
· F d_inner · V words of a table · C its width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trainer.config.model_settings import ModelConfig
from trainer.config.precision import Precision, is_autocast
from trainer.host_cpu import RETURNED_BYTES
from trainer.model.choice import BackendName
from trainer.model.cpu.word_runs import piece_words
from trainer.model.memory.written import spare_positions

#: Rows at a time in `linear_nll`, and queries at a time in `cpu_attention`.
_MADE_ROWS, _QUERIES = 256, 64
#: Logits that `linear_nll` widens to fp32 at a time.
_BLOCK_LOGITS = 1 << 21


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Bytes of an element of different tensors."""

    compute: int
    """An element of a matrix product's result, or of memory."""
    residual: int
    """An element of the residual stream, to which every layer adds."""
    weight: int

    @classmethod
    def of(cls, precision: Precision) -> "Widths":
        """Return the bytes per element in a precision."""
        if is_autocast(precision):
            return cls(compute=2, residual=4, weight=4)
        width = 4 if precision == "fp32" else 2
        return cls(compute=width, residual=width, weight=width)


@dataclass(frozen=True, kw_only=True)
class PassSize:
    """Sizes of one pass of one rank: rows of segments with their memory."""

    n_rows: int
    tgt_len: int
    mem_len: int

    @property
    def n_positions(self) -> int:
        """Return N, the number of positions."""
        return self.n_rows * self.tgt_len

    @property
    def n_keys(self) -> int:
        """Return S, the number of keys."""
        return self.mem_len + self.tgt_len

    def scores(self, model: ModelConfig) -> int:
        """Return the number of attention scores in a layer."""
        return self.n_positions * model.n_head * self.n_keys


class LayerBytes(NamedTuple):
    """Bytes of one layer."""

    attention: int
    """Kept by attention: scores, their masks, and the factors of its products."""
    others: int
    """Kept by everything else."""
    forward: int
    """Working space of the forward pass, beside what is kept."""
    backward: int
    """Working space of the backward pass."""


def layer(model: ModelConfig, size: PassSize, widths: Widths, backend: BackendName) -> LayerBytes:
    """Return the bytes that one layer of a training step keeps and works with."""
    a, r = widths.compute, widths.residual
    n, k = size.n_positions, size.n_rows * size.n_keys
    d, f, x = model.d_model, model.d_inner, model.n_head * model.d_head
    scores, drops = size.scores(model), model.dropout > 0
    keys = 2 * k * x * a
    per_score, forward, backward = _scores(model, a, backend)
    # Kept: memory and segment joined, the joined tensor's last rows again for the queries, queries,
    # positions and attention's result. Adding the biases keeps copies of the queries.
    inputs = k * d * a * (2 if model.norm == "pre" else 1) + (n * d * a if size.n_rows > 1 else 0)
    n_queries = 2 if backend == "cpu" else 4
    attention = scores * per_score + keys + n_queries * n * x * a + size.n_keys * x * a
    norms = (1 if model.norm == "pre" else 2) * n * d * r
    if backend == "triton":
        norms += 2 * n * d * a  # its fused sum keeps the branches
    masks = 2 * n * d if drops and backend != "triton" else 0
    # Plain dropout on a GPU keeps input, output and mask.
    inner = n * f * ((2 * a + 1) if backend == "plain" and drops else a)
    others = inputs + norms + masks + inner + n * d * a
    if model.activation_checkpointing:
        again = attention + others
        # On a CPU the tensors kept between layers cut up the memory that each layer frees.
        holes = keys + scores * a if backend == "cpu" and keys < RETURNED_BYTES else 0
        return LayerBytes(
            0, n * d * r + holes, scores * forward, again + scores * backward + keys + k * x * a
        )
    return LayerBytes(attention, others, scores * forward, scores * backward + keys + k * x * a)


def _scores(model: ModelConfig, a: int, backend: BackendName) -> tuple[int, int, int]:
    """Return bytes per attention score: kept, and working space forward and backward."""
    drops = model.attn_dropout > 0
    if backend == "cpu":  # `_CpuAttention`: weights; then gradients of weights, scores, positions
        return a + drops, a + 2 * drops, 3 * a
    if backend == "triton":  # `_FusedAttention`: the raw position scores
        return a, a, 2 * a
    kept = 4 + (a if a < 4 else 0) + 1 + drops * (a + 1)
    return kept, 2 * a + 4, 2 * 4 + 2 * a


class SoftmaxBytes(NamedTuple):
    """Bytes of the softmax over all clusters."""

    kept: int
    """Kept from the softmax's forward to its backward pass."""
    made: int
    """Gradients of tables that the softmax's forward pass makes."""
    dense: int
    """Gradients of tables that the softmax's backward pass makes."""
    forward: int
    backward: int


def softmax(
    size: PassSize,
    widths: Widths,
    backend: BackendName,
    *,
    tables: Sequence[tuple[int, int]],
    shares: Sequence[float],
    tied: bool,
) -> SoftmaxBytes:
    """Return the bytes that the softmax of a training step keeps and works with.

    Args:
        size: the sizes of a micro step.
        widths: bytes of elements.
        backend: the back end that computes the softmax.
        tables: words and width of each cluster, the head first.
        shares: each cluster's share of the targets, 1 for the head.
        tied: whether the embedding has the same tables.
    """
    counts = [
        _cluster(math.ceil(size.n_positions * share), *table, widths, backend, tied)
        for table, share in zip(tables, shares, strict=True)
    ]
    kept, made, dense = (sum(c[i] for c in counts) for i in range(3))
    forward, backward = (max(c[i] for c in counts) for i in (3, 4))
    return SoftmaxBytes(kept, made, dense, forward, backward)


def _cluster(
    n: int, v: int, c: int, widths: Widths, backend: BackendName, tied: bool
) -> SoftmaxBytes:
    a, w = widths.compute, widths.weight
    table, errors, hidden = v * c * w, n * v * a, n * c * a
    if backend == "plain":  # logits, and their logarithms in fp32; then two gradients
        wide = n * v * 4
        again = table if tied else 0
        return SoftmaxBytes(wide, 0, table, errors + (wide if a < 4 else 0), 2 * wide + again)
    if backend == "triton":
        return SoftmaxBytes(errors + hidden, 0, table, 2 * hidden, n * c * 4 + 2 * hidden)
    piece = c * piece_words(c) * (a + 4) + 2 * _BLOCK_LOGITS * 4
    if n * a > w * c:  # `_gradient_is_smaller`
        rows = min(n, _MADE_ROWS) * v * a
        copies = table // w * a if a != w else 0
        return SoftmaxBytes(2 * n * c * 4 + v * 4, table, 0, rows + copies + piece, piece)
    return SoftmaxBytes(errors + hidden, 0, table, piece, n * c * 4 + piece)


def validation(model: ModelConfig, size: PassSize, widths: Widths, backend: BackendName) -> int:
    """Return the working space of a pass that keeps nothing, without its memory."""
    a, r = widths.compute, widths.residual
    n, k = size.n_positions, size.n_rows * size.n_keys
    d, f, x = model.d_model, model.d_inner, model.n_head * model.d_head
    if backend == "cpu":  # `_reading`: a few queries at a time
        queries = min(size.tgt_len, _QUERIES)
        scores = 2 * size.n_rows * model.n_head * queries * size.n_keys * a
    else:
        scores = size.scores(model) * (2 * a if backend == "triton" else 3 * a + 5)
    sight = size.n_positions * size.n_keys * (3 if backend != "triton" else 0)
    return scores + sight + 4 * k * x * a + n * (f * a + 3 * d * r)


def reading_memory(model: ModelConfig, size: PassSize, widths: Widths) -> int:
    """Return the bytes of a memory of keys, values and positions while the next one is made."""
    x = model.n_head * model.d_head
    room = size.mem_len + max(size.tgt_len, spare_positions(size.mem_len))
    rows = size.n_rows * room * 2 * x
    return model.n_layer * widths.compute * (2 * rows + size.n_keys * x)
