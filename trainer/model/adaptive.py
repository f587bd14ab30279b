"""Adaptive embedding and softmax over frequency clusters (Grave et al. 2017, Baevski & Auli 2019).

Cluster 0 is the head: the most frequent words. Every cluster has a table of its own, even when all
clusters are equally wide. The gradient of a slice of one large table would fill the whole table
with zeros at each use.

N positions (B·T) · D d_model · C width of a cluster · V vocabulary · K tails.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.recipe import ModelConfig
from trainer.model.lent_rows import with_rows
from trainer.protocol import IGNORED

Table = tuple[Tensor, Tensor]
"""Weight `[V, C]` and bias `[V]` of some of the words."""
Nats = Callable[[Tensor, Tensor, Sequence[Table], int], Tensor]
"""A function with the arguments and the result of `linear_nats`."""
Lookup = Callable[[Tensor, Tensor, int], Tensor]
"""A function with the arguments and the result of `lookup`."""
Fill = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A function that appends positions with ignored targets to the positions and targets of a tail."""


def lookup(ids_N: Tensor, table_VC: Tensor, cluster: int) -> Tensor:
    """Return the rows of a table, `[N, C]`; `cluster` is the number of the table."""
    return F.embedding(ids_N, table_VC)


def linear_nats(
    hidden_NC: Tensor, targets_N: Tensor, tables: Sequence[Table], cluster: int
) -> Tensor:
    """Return the nats of each target, `[N]` in fp32 at least; 0 where it is `IGNORED`.

    Args:
        hidden_NC: hidden states, of which the logits are a linear function.
        targets_N: indices into the words of all tables, counted in the order of the tables.
        tables: tables whose words share one softmax.
        cluster: the number of the first table.
    """
    logits = [F.linear(hidden_NC, weight, bias) for weight, bias in tables]
    joint = logits[0] if len(logits) == 1 else torch.cat(logits, dim=-1)
    return F.cross_entropy(_wide(joint), targets_N, ignore_index=IGNORED, reduction="none")


def cluster_bounds(cutoffs: tuple[int, ...], vocabulary_size: int) -> list[tuple[int, int]]:
    """Return the first and the past-the-last word id of every cluster, the head first."""
    return list(pairwise((0, *cutoffs, vocabulary_size)))


def adaptive_nll(
    hidden_ND: Tensor,
    targets_N: Tensor,
    *,
    clusters: tuple[Tensor, ...],
    bounds: list[tuple[int, int]],
    tables_VC: list[Tensor],
    biases_V: list[Tensor],
    projections_DC: list[Tensor | None],
    cluster_table: Table | None,
    nats: Nats = linear_nats,
    fill: Fill | None = None,
    filled: bool = False,
) -> Tensor:
    """Return the nats of every target, `[N]` in fp32 at least; 0 where it is `IGNORED`.

    A tail that holds no target is still computed, on no rows: all ranks must use all parameters.

    Args:
        hidden_ND: final hidden states.
        targets_N: word ids.
        clusters: per cluster, the positions (among N) of its targets.
        bounds: see `cluster_bounds`.
        tables_VC: per cluster, the output embedding.
        biases_V: per cluster, a bias per word.
        projections_DC: per cluster, the projection from D to C, or None.
        cluster_table: weight and bias of the tails' logits in the head; None without tails.
        nats: computes the nats under one softmax.
        fill: brings the number of a tail's targets up to one that the device is fast with.
        filled: see `trainer.protocol.Segment`.
    """
    tails, of_tails = [], []
    for c in range(1, len(bounds)):
        rows, local = _members(targets_N, clusters[c], bounds[c][0], filled=filled, other=IGNORED)
        if fill is not None:
            rows, local = fill(rows, local)
        tails.append((rows, local))
    hidden_ND, *hidden_tails = with_rows(hidden_ND, [rows for rows, _ in tails])
    for c, (rows, local) in enumerate(tails, start=1):
        hidden_NC = _projected(hidden_tails[c - 1], projections_DC[c])
        of_tails.append((rows, nats(hidden_NC, local, [(tables_VC[c], biases_V[c])], c)))
    # The head comes last: the memory that it frees again is then not broken up by tensors that
    # the tails keep.
    head = [(tables_VC[0], biases_V[0]), *([cluster_table] if cluster_table else [])]
    hidden_NC = _projected(hidden_ND, projections_DC[0])
    nll_N = nats(hidden_NC, _head_targets(targets_N, bounds), head, 0)
    for rows, tail in of_tails:
        nll_N = nll_N.index_add(0, rows, tail)
    return nll_N


def _members(
    ids_N: Tensor, rows: Tensor, first: int, *, filled: bool, other: int
) -> tuple[Tensor, Tensor]:
    """Return the positions of a cluster's words, and the words counted from its `first`.

    Of what is no position, the position is the last, and the word is `other`.
    """
    if not filled:
        return rows, ids_N.index_select(0, rows) - first
    n_positions = len(ids_N)
    near = rows.clamp_max(n_positions - 1)
    local = ids_N.index_select(0, near) - first
    return near, torch.where(rows < n_positions, local, other)


def _head_targets(targets_N: Tensor, bounds: list[tuple[int, int]]) -> Tensor:
    """Return each target's column in the head: the head's own words, then one column per tail."""
    head_N = targets_N
    # `bucketize` would copy the borders to the device, and wait for the copy.
    for column, (low, _) in enumerate(bounds[1:], start=bounds[0][1]):
        head_N = torch.where(targets_N >= low, column, head_N)
    return head_N


def _projected(hidden_ND: Tensor, projection_DC: Tensor | None) -> Tensor:
    return hidden_ND if projection_DC is None else hidden_ND @ projection_DC


def cluster_logits(
    hidden_ND: Tensor, table_VC: Tensor, bias_V: Tensor, projection_DC: Tensor | None
) -> Tensor:
    """Return the logits of one cluster's words, `[N, V]`, in the compute dtype."""
    return F.linear(_projected(hidden_ND, projection_DC), table_VC, bias_V)


def _wide(logits: Tensor) -> Tensor:
    """Return logits in fp32 at least: the precision of a softmax and its sums."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class LogProbs(NamedTuple):
    """Log-probabilities in fp32 at least; those of a tail's words are computed when asked for."""

    bounds: list[tuple[int, int]]
    """See `cluster_bounds`."""
    head_NV: Tensor
    """Log-probabilities of the head's words."""
    tails_NK: Tensor
    """Log-probability of each tail, which is that of all of its words together."""
    of_tail: Callable[[int], Tensor]
    """Returns those of the words of a cluster from 1 on, `[N, V]`."""

    def of_all(self) -> Tensor:
        """Return the log-probabilities of all words, `[N, V]`."""
        tails = (self.of_tail(c) for c in range(1, len(self.bounds)))
        return torch.cat([self.head_NV, *tails], dim=-1)


class AdaptiveEmbedding(nn.Module):
    """Word embeddings projected to d_model; each rarer cluster is narrower by factor `div_val`."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.d_model = config.d_model
        self.bounds = cluster_bounds(config.cutoffs, vocabulary_size)
        widest = config.d_embed or config.d_model
        widths = [widest // config.div_val**c for c in range(len(self.bounds))]
        self.tables = nn.ParameterList(
            nn.Parameter(torch.empty(high - low, width))
            for (low, high), width in zip(self.bounds, widths, strict=True)
        )
        # One width needs one projection, or none; several need one each, as in the paper's code.
        common = [widest] if widest != config.d_model else []
        projected = widths if config.div_val > 1 else common
        self.projections = nn.ParameterList(
            nn.Parameter(torch.empty(config.d_model, width)) for width in projected
        )

    def projection(self, cluster: int) -> Tensor | None:
        """Return the cluster's projection, `[D, C]`; None where it is as wide as the model."""
        if len(self.projections) == 0:
            return None
        return cast(Tensor, self.projections[cluster if len(self.projections) > 1 else 0])

    def forward(
        self,
        tokens_BT: Tensor,
        clusters: tuple[Tensor, ...],
        lookup: Lookup = lookup,
        filled: bool = False,
    ) -> Tensor:
        """Return embeddings times √D, `[B, T, D]`; `clusters` as in `Segment.token_clusters`.

        Weights that are stored with pads make rows with pads: see `trainer.model.triton.storage`.
        """
        tokens_N = tokens_BT.reshape(-1)
        if len(self.bounds) == 1:
            embedded_ND = self._embed(tokens_N, 0, lookup)
        else:
            # The head comes last here and so first in the backward pass: it frees the most memory.
            order = range(len(self.bounds) - 1, -1, -1)
            rows = [clusters[c] for c in order]
            parts = []
            for c in order:
                low = self.bounds[c][0]
                _, ids = _members(tokens_N, clusters[c], low, filled=filled, other=0)
                parts.append(self._embed(ids, c, lookup))
            n_rows = len(tokens_N) + filled  # one more for what is no position
            embedded_ND = parts[0].new_zeros(n_rows, parts[0].shape[1])
            embedded_ND = embedded_ND.index_copy(0, torch.cat(rows), torch.cat(parts))
            embedded_ND = embedded_ND[: len(tokens_N)]
        return (embedded_ND * math.sqrt(self.d_model)).view(*tokens_BT.shape, -1)

    def _embed(self, ids_N: Tensor, cluster: int, lookup: Lookup) -> Tensor:
        embedded = lookup(ids_N, self.tables[cluster], cluster)
        projection_DC = self.projection(cluster)
        return embedded if projection_DC is None else F.linear(embedded, projection_DC)


class AdaptiveSoftmax(nn.Module):
    """Softmax over the embedding's clusters; weights and tail projections are tied by default."""

    def __init__(self, config: ModelConfig, embedding: AdaptiveEmbedding) -> None:
        super().__init__()
        self.bounds = embedding.bounds
        self.n_columns = config.d_model
        """Columns of a hidden state that are read: D, or more where weights have pads."""
        n_tails = len(self.bounds) - 1
        if config.tie_embedding:
            self.tables = embedding.tables
        else:
            self.tables = nn.ParameterList(
                nn.Parameter(torch.empty_like(table)) for table in embedding.tables
            )
        self.biases = nn.ParameterList(
            nn.Parameter(torch.empty(high - low)) for low, high in self.bounds
        )
        width = self.tables[0].shape[1]
        self.cluster_weight = nn.Parameter(torch.empty(n_tails, width)) if n_tails else None
        self.cluster_bias = nn.Parameter(torch.empty(n_tails)) if n_tails else None
        first_tied = {"none": n_tails + 1, "tails": 1, "all": 0}[config.tie_projections]
        projections = [embedding.projection(c) for c in range(n_tails + 1)]
        self.projections = nn.ParameterList(
            p if c >= first_tied else nn.Parameter(torch.empty_like(p))
            for c, p in enumerate(projections)
            if p is not None
        )

    def forward(
        self,
        hidden_ND: Tensor,
        targets_N: Tensor | None,
        clusters: tuple[Tensor, ...],
        nats: Nats = linear_nats,
        fill: Fill | None = None,
        filled: bool = False,
    ) -> Tensor:
        """Return nats per target, `[N]`, see `adaptive_nll`; without targets log-probabilities.

        Both are computed here because ZeRO-3 gathers a module's weights only in its `forward`.
        """
        if targets_N is None:
            return self.log_probs(hidden_ND).of_all()
        return adaptive_nll(
            hidden_ND,
            targets_N,
            clusters=clusters,
            bounds=self.bounds,
            tables_VC=list(self.tables),
            biases_V=list(self.biases),
            projections_DC=self._projections(),
            cluster_table=self._cluster_table(),
            nats=nats,
            fill=fill,
            filled=filled,
        )

    def log_probs(self, hidden_ND: Tensor) -> LogProbs:
        """Return the log-probabilities of all words, those of a tail only when asked for."""
        projections = self._projections()
        hidden_NC, table = _projected(hidden_ND, projections[0]), self._cluster_table()
        logits, n_head = F.linear(hidden_NC, self.tables[0], self.biases[0]), len(self.biases[0])
        if table is not None:
            logits = torch.cat([logits, F.linear(hidden_NC, *table)], dim=-1)
        joint = _wide(logits).log_softmax(dim=-1)

        def of_tail(c: int) -> Tensor:
            logits = cluster_logits(hidden_ND, self.tables[c], self.biases[c], projections[c])
            return joint[:, n_head + c - 1, None] + _wide(logits).log_softmax(dim=-1)

        return LogProbs(self.bounds, joint[:, :n_head], joint[:, n_head:], of_tail)

    def _projections(self) -> list[Tensor | None]:
        return list(self.projections) or [None] * len(self.bounds)

    def _cluster_table(self) -> Table | None:
        if self.cluster_weight is None or self.cluster_bias is None:
            return None
        return self.cluster_weight, self.cluster_bias
