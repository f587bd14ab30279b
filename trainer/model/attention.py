"""Relative attention with content and position biases (Dai et al. 2019, section 3.3, appendix B).

B streams · T tgt_len · M mem_len · S = M+T · H heads · E d_head · D d_model.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.dropout import dropout as drop
from trainer.model.memory.past import Past

Attend = Callable[..., Tensor]
"""A function with the arguments and the result of `relative_attention`."""


def position_embedding(n_keys: int, d_model: int, *, clamp_len: int | None, like: Tensor) -> Tensor:
    """Return sinusoids of the distances S-1 … 0, `[S, D]`: sines, then cosines.

    The result has the dtype and device of `like`. Angles are computed in fp32 at least: 16 bits
    cannot tell distance 2048 from 2049.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    distance_S = torch.arange(n_keys - 1, -1, -1, dtype=wide, device=like.device)
    if clamp_len is not None:
        distance_S = distance_S.clamp_max(clamp_len)
    frequency = 10000 ** -(torch.arange(0, d_model, 2, dtype=wide, device=like.device) / d_model)
    angle = distance_S[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(like.dtype)


def rel_shift(score_BHTS: Tensor) -> Tensor:
    """Move the score of distance d, in column S-1-d of row i, to the column of key i+M-d.

    A zero column is padded in front, and the rows are read one element out of step (appendix B).
    The columns of keys after the query hold leftovers of the next row: the caller masks them.
    """
    n_streams, n_head, tgt_len, n_keys = score_BHTS.shape
    padded = F.pad(score_BHTS, (1, 0)).view(n_streams, n_head, n_keys + 1, tgt_len)
    return padded[:, :, 1:].view(n_streams, n_head, tgt_len, n_keys)


def relative_attention(
    q_BTHE: Tensor,
    kv_BS2HE: Tensor,
    r_SHE: Tensor,
    *,
    content_bias_HE: Tensor,
    position_bias_HE: Tensor,
    hidden_keys: Tensor,
    dropout: float,
) -> Tensor:
    """Return softmax(((q+u)·k + rel_shift((q+v)·r)) / √E) over the visible keys, times the values.

    Args:
        q_BTHE: queries of the segment.
        kv_BS2HE: keys and values of memory and segment, with any strides.
        r_SHE: projected positions S-1 … 0.
        content_bias_HE: the paper's u.
        position_bias_HE: the paper's v.
        hidden_keys: see `trainer.model.memory.sight`; every query sees at least one key.
        dropout: probability of dropping an attention weight.

    Returns:
        `[B, T, H, E]`.
    """
    scale = 1 / math.sqrt(q_BTHE.shape[-1])
    q_BTHE = q_BTHE * scale
    content_BHTE = (q_BTHE + content_bias_HE * scale).transpose(1, 2)
    position_BHTE = (q_BTHE + position_bias_HE * scale).transpose(1, 2)
    score_BHTS = rel_shift(position_BHTE @ r_SHE.permute(1, 2, 0))
    k_BSHE, v_BSHE = kv_BS2HE.unbind(2)
    score_BHTS = score_BHTS + content_BHTE @ k_BSHE.permute(0, 2, 3, 1)
    hidden_keys = F.pad(hidden_keys, (k_BSHE.shape[1] - hidden_keys.shape[-1], 0))
    weight_BHTS = score_BHTS.masked_fill(hidden_keys, -torch.inf).softmax(dim=-1)
    weight_BHTS = drop(weight_BHTS.to(v_BSHE.dtype), dropout)
    return (weight_BHTS @ v_BSHE.transpose(1, 2)).transpose(1, 2)


class RelativeAttention(nn.Module):
    """Multi-head relative attention with its residual connection and LayerNorm."""

    def __init__(
        self,
        *,
        d_model: int,
        n_head: int,
        d_head: int,
        dropout: float,
        attn_dropout: float,
        pre_norm: bool,
        own_biases: bool,
    ) -> None:
        super().__init__()
        self.n_head, self.d_head, self.pre_norm = n_head, d_head, pre_norm
        self.dropout, self.attn_dropout = dropout, attn_dropout
        self.query = nn.Linear(d_model, n_head * d_head, bias=False)
        self.key_value = nn.Linear(d_model, 2 * n_head * d_head, bias=False)
        self.position = nn.Linear(d_model, n_head * d_head, bias=False)
        self.out = nn.Linear(n_head * d_head, d_model, bias=False)
        self.norm = nn.LayerNorm(d_model)
        self.biases = PositionBiases(n_head, d_head) if own_biases else None

    def forward(
        self,
        x_BTD: Tensor,
        past: Past,
        hidden_keys: Tensor,
        shared_biases: tuple[Tensor, Tensor] | None,
        attend: Attend = relative_attention,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from the segment to memory and segment; return the result, `[B, T, D]`.

        If keys and values are written, also return the projected positions, `[S, H, E]`, which the
        next past may take; otherwise None.
        """
        q_BTX, kv_BS2HE = self._projected(x_BTD, past)
        r_SHE = past.r_SHE
        if r_SHE is None:
            r_SHE = torch.unflatten(self.position(past.position_SD), -1, (self.n_head, -1))
        biases = shared_biases if self.biases is None else self.biases()
        assert biases is not None, "biases are either shared or the layer's own"
        mixed_BTHE = attend(
            torch.unflatten(q_BTX, -1, (self.n_head, -1)),
            kv_BS2HE,
            r_SHE,
            content_bias_HE=biases[0],
            position_bias_HE=biases[1],
            hidden_keys=hidden_keys,
            dropout=self.attn_dropout if self.training else 0.0,
        )
        out_BTD = drop(self.out(mixed_BTHE.flatten(2)), self.dropout, training=self.training)
        out_BTD = x_BTD + out_BTD
        out_BTD = out_BTD if self.pre_norm else self.norm(out_BTD)
        return out_BTD, None if past.written is None else heads_first(r_SHE)

    def _projected(self, x_BTD: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        """Return the segment's queries, and keys and values of memory and segment."""
        heads = (2, self.n_head, -1)
        if past.written is not None:
            x_BTD = x_BTD.to(past.written.rows_2HBCE.dtype)
            x_BTD = self.norm(x_BTD) if self.pre_norm else x_BTD
            kv_BT2HE = torch.unflatten(self.key_value(x_BTD), -1, heads)
            return self.query(x_BTD), past.written.append(kv_BT2HE)
        assert past.memory_BMD is not None
        x_BSD = torch.cat([past.memory_BMD, x_BTD.to(past.memory_BMD.dtype)], dim=1)
        x_BSD = self.norm(x_BSD) if self.pre_norm else x_BSD
        q_BTX = self.query(x_BSD[:, -x_BTD.shape[1] :])
        return q_BTX, torch.unflatten(self.key_value(x_BSD), -1, heads)


def heads_first(r_SHE: Tensor) -> Tensor:
    """Return `r_SHE` laid out so that the part of each head lies in one piece."""
    return r_SHE.transpose(0, 1).contiguous().transpose(0, 1)


class PositionBiases(nn.Module):
    """The content bias u and the position bias v, as a module so that ZeRO-3 gathers them."""

    def __init__(self, n_head: int, d_head: int) -> None:
        super().__init__()
        self.content_HE = nn.Parameter(torch.empty(n_head, d_head))
        self.position_HE = nn.Parameter(torch.empty(n_head, d_head))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return u and v, each `[H, E]`."""
        return self.content_HE, self.position_HE
