"""Transformer-XL word by word, straight from the paper: slow, plain, and no copy of the code.

One stream, one query, one head at a time; the memory is a Python list.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from trainer.model.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from trainer.model.attention import RelativeAttention
from trainer.model.token_tables import TokenTable
from trainer.model.transformer_xl import Layer, TransformerXL


def sinusoid(distance: int, d_model: int) -> Tensor:
    """Return sines, then cosines, of distance / 10000^(2i/D)."""
    angles = [distance / 10000 ** (2 * i / d_model) for i in range(d_model // 2)]
    return torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)


def attend(
    q_E: Tensor, keys: list[tuple[Tensor, Tensor, Tensor]], u_E: Tensor, v_E: Tensor
) -> Tensor:
    """Attend from one query to visible keys, each given as (key, projected position, value)."""
    scale = math.sqrt(len(q_E))
    scores = [((q_E + u_E) @ key + (q_E + v_E) @ position) / scale for key, position, _ in keys]
    weights = torch.stack(scores).softmax(0)
    return sum((w * value for w, (_, _, value) in zip(weights, keys, strict=True)), 0 * q_E)


def cluster_of(word: int, bounds: list[tuple[int, int]]) -> int:
    return next(c for c, (low, high) in enumerate(bounds) if low <= word < high)


def embed(embedding: AdaptiveEmbedding, word: int) -> Tensor:
    cluster = cluster_of(word, embedding.bounds)
    vector: Tensor = embedding.tables[cluster][word - embedding.bounds[cluster][0]]
    if len(embedding.projections):
        vector = embedding.projections[min(cluster, len(embedding.projections) - 1)] @ vector
    return vector * math.sqrt(embedding.d_model)


def pair(model: TransformerXL, before: int | None, word: int) -> int:
    """Return the row of a pair, by Python's numbers without end."""
    before = model.n_words if before is None else before
    mixed = _wrapped(word * 0xC2B2AE3D27D4EB4F + before * 0x165667B19E3779F9)
    mixed = _wrapped((mixed ^ (mixed >> 29)) * 0xC2B2AE3D27D4EB4F)
    return (mixed ^ (mixed >> 32)) % model.config.pair_rows


def _wrapped(number: int) -> int:
    """Return the number that 64 bits with a sign hold."""
    return (number + 2**63) % 2**64 - 2**63


def log_probabilities(softmax: AdaptiveSoftmax, hidden_D: Tensor) -> Tensor:
    """Return log P of all words: of the head's own, and log P(cluster) + log P(word in cluster)."""
    n_head = softmax.bounds[0][1]
    tables = list(softmax.tables)
    biases = list(softmax.biases)
    if softmax.cluster_weight is not None and softmax.cluster_bias is not None:
        tables[0] = torch.cat([tables[0], softmax.cluster_weight])
        biases[0] = torch.cat([biases[0], softmax.cluster_bias])
    parts = []
    for c, (table, bias) in enumerate(zip(tables, biases, strict=True)):
        hidden = softmax.projections[c].T @ hidden_D if len(softmax.projections) else hidden_D
        parts.append((table @ hidden + bias).log_softmax(0))
    tails = [parts[0][n_head + c] + part for c, part in enumerate(parts[1:])]
    return torch.cat([parts[0][:n_head], *tails])


class NaiveStream:
    """One stream's reader: words in, log-probabilities of what follows each of them out."""

    def __init__(
        self, model: TransformerXL, *, mem_len: int, clamp_len: int | None, same_length: bool
    ) -> None:
        self.model, self.mem_len = model, mem_len
        self.clamp_len, self.same_length = clamp_len, same_length
        self.memory: list[list[tuple[Tensor, int]]] = [[] for _ in model.layers]
        self.document = 0
        self.last: int | None = None

    def read(self, words: list[int], starts: set[int]) -> list[Tensor]:
        """Read a segment; `starts` are the indices in it at which a new document begins."""
        xs = [embed(self.model.embedding, word) for word in words]
        documents = []
        for i in range(len(words)):
            self.document += i in starts
            documents.append(self.document)
        if self.model.pairs is not None:
            for i, word in enumerate(words):
                self.last = None if i in starts else self.last
                xs[i] = xs[i] + self._row(self.model.pairs, pair(self.model, self.last, word))
                self.last = word
        for depth, layer in enumerate(self.model.layers):
            assert isinstance(layer, Layer)
            if 1 <= depth <= len(self.model.token_tables):
                table = self.model.token_tables[depth - 1]
                xs = [x + self._row(table, word) for x, word in zip(xs, words, strict=True)]
            known = self.memory[depth] + list(zip(xs, documents, strict=True))
            xs = [self._layer(layer, known, len(self.memory[depth]) + i) for i in range(len(xs))]
            detached = [(x.detach(), document) for x, document in known]
            self.memory[depth] = detached[max(0, len(detached) - self.mem_len) :]
        return [log_probabilities(self.model.softmax, x) for x in xs]

    def _row(self, table: nn.Module, row: int) -> Tensor:
        assert isinstance(table, TokenTable)
        found: Tensor = table.weight[row] * math.sqrt(table.weight.shape[1])
        return found

    def _layer(self, layer: Layer, known: list[tuple[Tensor, int]], at: int) -> Tensor:
        x, document = known[at]
        reach = self.mem_len if self.same_length else at + 1
        visible = [
            (at - j, known[j][0])
            for j in range(at + 1)
            if known[j][1] == document and at - j < reach
        ]
        x = self._attention(layer.attention, x, visible)
        forward = layer.feed_forward
        inner = forward.norm(x) if forward.pre_norm else x
        inner = forward.outer.weight @ (forward.inner.weight @ inner + forward.inner.bias).relu()
        x = x + inner + forward.outer.bias
        return x if forward.pre_norm else forward.norm(x)

    def _attention(
        self, attention: RelativeAttention, x: Tensor, visible: list[tuple[int, Tensor]]
    ) -> Tensor:
        normed = attention.norm if attention.pre_norm else torch.nn.Identity()
        biases = attention.biases or self.model.biases
        assert biases is not None
        key_weight, value_weight = attention.key_value.weight.chunk(2)
        heads = (attention.n_head, -1)
        q_HE = (attention.query.weight @ normed(x)).view(heads)
        projected = []
        for distance, y in visible:
            clamped = min(distance, self.clamp_len or distance)
            r = attention.position.weight @ sinusoid(clamped, len(x))
            k, v = key_weight @ normed(y), value_weight @ normed(y)
            projected.append((k.view(heads), r.view(heads), v.view(heads)))
        mixed = [
            attend(q_HE[h], [(k[h], r[h], v[h]) for k, r, v in projected], u, v_bias)
            for h, (u, v_bias) in enumerate(zip(biases.content_HE, biases.position_HE, strict=True))
        ]
        x = x + attention.out.weight @ torch.cat(mixed)
        return x if attention.pre_norm else attention.norm(x)


def bounds_of(cutoffs: tuple[int, ...], size: int) -> list[tuple[int, int]]:
    return list(pairwise((0, *cutoffs, size)))
