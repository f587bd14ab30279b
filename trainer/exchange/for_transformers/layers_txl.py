"""The layers of Transformer-XL for transformers from 5.3 on: see `modeling_txl.py`.

B rows · T new tokens · S keys · H heads · E d_head · D d_model · F d_inner · V words · C width of a
cluster.

Part of txl-trainer, under the MIT license.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_txl import TxlConfig


def position_embedding(n_keys: int, config: TxlConfig, like: Tensor) -> Tensor:
    """Return sinusoids of the distances n_keys-1 … 0, `[n_keys, D]`: sines, then cosines."""
    wide = torch.promote_types(like.dtype, torch.float32)
    distance_S = torch.arange(n_keys - 1, -1, -1, dtype=wide, device=like.device)
    if config.clamp_len is not None:
        distance_S = distance_S.clamp_max(config.clamp_len)
    steps = torch.arange(0, config.d_model, 2, dtype=wide, device=like.device)
    angle = distance_S[:, None] * 10000 ** -(steps / config.d_model)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(like.dtype)


def rel_shift(score_BHTS: Tensor) -> Tensor:
    """Move the score of distance d, in column S-1-d of row i, to its key (appendix B)."""
    n_rows, n_head, n_new, n_keys = score_BHTS.shape
    padded = F.pad(score_BHTS, (1, 0)).view(n_rows, n_head, n_keys + 1, n_new)
    return padded[:, :, 1:].view(n_rows, n_head, n_new, n_keys)


class PositionBiases(nn.Module):
    """The content bias u and the position bias v."""

    def __init__(self, config: TxlConfig) -> None:
        super().__init__()
        self.content_HE = nn.Parameter(torch.empty(config.n_head, config.d_head))
        self.position_HE = nn.Parameter(torch.empty(config.n_head, config.d_head))


class RelativeAttention(nn.Module):
    """Attention by content and distance (section 3.3), with residual connection and LayerNorm."""

    def __init__(self, config: TxlConfig) -> None:
        super().__init__()
        self.config, d_heads = config, config.n_head * config.d_head
        self.query = nn.Linear(config.d_model, d_heads, bias=False)
        self.key_value = nn.Linear(config.d_model, 2 * d_heads, bias=False)
        self.position = nn.Linear(config.d_model, d_heads, bias=False)
        self.out = nn.Linear(d_heads, config.d_model, bias=False)
        self.norm = nn.LayerNorm(config.d_model)
        self.biases = PositionBiases(config) if config.position_biases == "per_layer" else None

    def keys_and_values(self, x_BTD: Tensor) -> Tensor:
        """Return `[B, T, 2, H, E]` of the layer's inputs."""
        x_BTD = self.norm(x_BTD) if self.config.norm == "pre" else x_BTD
        kv_BT2HE: Tensor = self.key_value(x_BTD).unflatten(-1, (2, self.config.n_head, -1))
        return kv_BT2HE

    def forward(
        self,
        x_BTD: Tensor,
        kv_BS2HE: Tensor,
        r_SHE: Tensor,
        hidden_BTS: Tensor,
        biases: PositionBiases,
    ) -> Tensor:
        """Return softmax(((q+u)·k + rel_shift((q+v)·r)) / √E) · v, projected, `[B, T, D]`."""
        config, pre_norm = self.config, self.config.norm == "pre"
        q_BTX = self.query(self.norm(x_BTD) if pre_norm else x_BTD)
        q_BTHE = q_BTX.unflatten(-1, (config.n_head, -1)) / math.sqrt(config.d_head)
        content_BHTE = (q_BTHE + biases.content_HE / math.sqrt(config.d_head)).transpose(1, 2)
        position_BHTE = (q_BTHE + biases.position_HE / math.sqrt(config.d_head)).transpose(1, 2)
        k_BSHE, v_BSHE = kv_BS2HE.unbind(2)
        score_BHTS = rel_shift(position_BHTE @ r_SHE.permute(1, 2, 0))
        score_BHTS = score_BHTS + content_BHTE @ k_BSHE.permute(0, 2, 3, 1)
        weight_BHTS = score_BHTS.masked_fill(hidden_BTS[:, None], -torch.inf).softmax(dim=-1)
        weight_BHTS = F.dropout(weight_BHTS, config.attn_dropout, self.training)
        mixed_BTX = (weight_BHTS @ v_BSHE.transpose(1, 2)).transpose(1, 2).flatten(2)
        out_BTD: Tensor = x_BTD + F.dropout(self.out(mixed_BTX), config.dropout, self.training)
        return out_BTD if pre_norm else self.norm(out_BTD)


class FeedForward(nn.Module):
    """Two linear layers around a ReLU, with residual connection and LayerNorm."""

    def __init__(self, config: TxlConfig) -> None:
        super().__init__()
        self.config = config
        self.inner = nn.Linear(config.d_model, config.d_inner)
        self.outer = nn.Linear(config.d_inner, config.d_model)
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return `[B, T, D]`."""
        pre_norm, share = self.config.norm == "pre", self.config.dropout
        inner_BTF = self.inner(self.norm(x_BTD) if pre_norm else x_BTD).relu()
        inner_BTF = F.dropout(inner_BTF, share, self.training)
        out_BTD: Tensor = x_BTD + F.dropout(self.outer(inner_BTF), share, self.training)
        return out_BTD if pre_norm else self.norm(out_BTD)


class TxlLayer(nn.Module):
    """Attention, then feed-forward."""

    def __init__(self, config: TxlConfig) -> None:
        super().__init__()
        self.attention = RelativeAttention(config)
        self.feed_forward = FeedForward(config)


class AdaptiveEmbedding(nn.Module):
    """Tables of the clusters of words, each rarer one narrower, projected to D."""

    def __init__(self, config: TxlConfig) -> None:
        super().__init__()
        self.config, sizes = config, zip(config.bounds, config.widths, strict=True)
        self.tables = nn.ParameterList(
            nn.Parameter(torch.empty(high - low, width)) for (low, high), width in sizes
        )
        common = config.widths[:1] if config.widths[0] != config.d_model else []
        self.projections = nn.ParameterList(
            nn.Parameter(torch.empty(config.d_model, width))
            for width in (config.widths if config.div_val > 1 else common)
        )

    def projection(self, cluster: int) -> Tensor | None:
        """Return `[D, C]`; None where the cluster is as wide as the model."""
        if len(self.projections) == 0:
            return None
        return cast(Tensor, self.projections[cluster if len(self.projections) > 1 else 0])

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return embeddings times √D, `[B, T, D]`."""
        parts = self.tables[0].new_zeros(*tokens_BT.shape, self.config.d_model)
        for c, (low, high) in enumerate(self.config.bounds):
            is_in = (tokens_BT >= low) & (tokens_BT < high)
            rows, projection_DC = self.tables[c][tokens_BT[is_in] - low], self.projection(c)
            rows = rows if projection_DC is None else F.linear(rows, projection_DC)
            parts[is_in] = rows.to(parts.dtype)
        embedded_BTD: Tensor = parts * math.sqrt(self.config.d_model)
        return embedded_BTD


class TokenTable(nn.Module):
    """Vectors that are added to the residual stream, one for each token or hashed pair."""

    def __init__(self, n_rows: int, config: TxlConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_rows, config.d_model))

    def forward(self, rows_BT: Tensor) -> Tensor:
        """Return rows times √D, `[B, T, D]`."""
        rows_BTD: Tensor = self.weight[rows_BT] * math.sqrt(self.weight.shape[1])
        return rows_BTD


def hashed(tokens: Tensor, before: Tensor) -> Tensor:
    """Return a number of 64 bits for each token and the one before it, as txl-trainer does."""
    of_token, of_before = 0xC2B2AE3D27D4EB4F - 2**64, 0x165667B19E3779F9
    mixed = tokens * of_token + before * of_before
    mixed = (mixed ^ (mixed >> 29)) * of_token
    return mixed ^ (mixed >> 32)


class AdaptiveSoftmax(nn.Module):
    """Log-probabilities of all words; tables and projections that are tied are the embedding's."""

    def __init__(self, config: TxlConfig, embedding: AdaptiveEmbedding) -> None:
        super().__init__()
        n_tails, tables = len(config.bounds) - 1, embedding.tables
        if not config.tie_embedding:
            self.tables = nn.ParameterList(nn.Parameter(torch.empty_like(t)) for t in tables)
        self.biases = nn.ParameterList(
            nn.Parameter(torch.empty(high - low)) for low, high in config.bounds
        )
        if n_tails:
            self.cluster_weight = nn.Parameter(torch.empty(n_tails, config.widths[0]))
            self.cluster_bias = nn.Parameter(torch.empty(n_tails))
        n_own = {"none": n_tails + 1, "tails": 1, "all": 0}[config.tie_projections]
        projections = [embedding.projection(c) for c in range(n_own)]
        self.projections = nn.ParameterList(
            nn.Parameter(torch.empty_like(p)) for p in projections if p is not None
        )

    def forward(self, hidden_BTD: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        """Return log-probabilities, `[B, T, V]` in fp32 at least."""
        tables = embedding.tables if not hasattr(self, "tables") else self.tables
        wide = torch.promote_types(hidden_BTD.dtype, torch.float32)
        logits = []
        for c, (table_VC, bias_V) in enumerate(zip(tables, self.biases, strict=True)):
            own = c < len(self.projections)
            projection_DC = self.projections[c] if own else embedding.projection(c)
            x = hidden_BTD if projection_DC is None else hidden_BTD @ projection_DC
            logits.append(F.linear(x, table_VC, bias_V).to(wide))
            if c == 0 and len(tables) > 1:
                tails = F.linear(x, self.cluster_weight, self.cluster_bias).to(wide)
        if len(tables) == 1:
            return logits[0].log_softmax(-1)
        n_head = logits[0].shape[-1]
        head = torch.cat([logits[0], tails], dim=-1).log_softmax(-1)
        words = [head[..., :n_head]]
        for c, tail in enumerate(logits[1:]):
            words.append(head[..., n_head + c, None] + tail.log_softmax(-1))
        return torch.cat(words, dim=-1)
