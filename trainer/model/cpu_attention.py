"""Relative attention on a CPU: plain batched products, one kept matrix of weights, few passes.

Heads come first, so that one product serves the positions of all streams, and rel_shift is an
address: flattened, the raw position scores of a matrix from its T-1st on are those of the keys, S-1
to a row. The S-th key of a row is hidden, but in the last row, where it is the very last score.

B streams · T tgt_len · M mem_len · S = M+T · H heads · E d_head.
"""

import math
from typing import Any

import torch
from torch import Tensor

from trainer.model.dropout import Kept, kept_at_random


def cpu_attention(
    q_BTHE: Tensor,
    kv_BS2HE: Tensor,
    r_SHE: Tensor,
    *,
    content_bias_HE: Tensor,
    position_bias_HE: Tensor,
    hidden_keys: Tensor,
    dropout: float,
) -> Tensor:
    """As `trainer.model.attention.relative_attention`, in the dtype of the queries."""
    with torch.autocast(q_BTHE.device.type, enabled=False):
        mixed_BTHE: Tensor = _CpuAttention.apply(  # type: ignore[no-untyped-call]
            q_BTHE, kv_BS2HE, r_SHE, content_bias_HE, position_bias_HE, hidden_keys, dropout
        )
    return mixed_BTHE


class _CpuAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BTHE: Tensor, kv_BS2HE: Tensor, r_SHE: Tensor, u_HE: Tensor, v_HE: Tensor,
        hidden_keys: Tensor, dropout: float,
    ) -> Tensor:  # fmt: skip
        """`[B, T, H, E]`; keeps the weights and a copy of keys and values, heads first."""
        n_streams, tgt_len, n_head, _ = q_BTHE.shape
        kv_2NSE = kv_BS2HE.permute(2, 3, 0, 1, 4).flatten(1, 2).contiguous()
        r_HSE = r_SHE.transpose(0, 1).contiguous()
        raw_HNS = _with_bias(q_BTHE, v_HE).flatten(1, 2) @ r_HSE.mT
        score_NTS = torch.bmm(_with_bias(q_BTHE, u_HE).flatten(0, 1), kv_2NSE[0].mT)
        n_keys = score_NTS.shape[-1]
        n = n_head * n_streams
        raw_NX = raw_HNS.view(n, tgt_len * n_keys)
        score_NTS[:, :, :-1] += raw_NX[:, tgt_len - 1 : -1].view(n, tgt_len, n_keys - 1)
        score_NTS[:, -1, -1] += raw_NX[:, -1]
        del raw_HNS, raw_NX
        newest = score_NTS.view(n_head, n_streams, tgt_len, n_keys)[..., -hidden_keys.shape[-1] :]
        newest += _minus_infinity(hidden_keys, score_NTS.dtype)
        weight_NTS = score_NTS.softmax(dim=-1)
        kept = kept_at_random(weight_NTS.shape, dropout) if dropout else Kept(None, 1.0)
        mixed_NTE = torch.bmm(kept.of(weight_NTS), kv_2NSE[1])
        ctx.save_for_backward(q_BTHE, kv_2NSE, r_HSE, u_HE, v_HE, weight_NTS, kept.mask)
        ctx.kept_scale = kept.scale
        return _streams_first(mixed_NTE, n_head)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Of queries, keys with values, positions and both biases."""
        q_BTHE, kv_2NSE, r_HSE, u_HE, v_HE, weight_NTS, mask = ctx.saved_tensors
        kept = Kept(mask, ctx.kept_scale)
        n_streams, tgt_len, n_head, d_head = q_BTHE.shape
        n_keys, scale = weight_NTS.shape[-1], 1 / math.sqrt(d_head)
        mixed_NTE = grads[0].permute(2, 0, 1, 3).flatten(0, 1)
        weight_grad_NTS = kept.of(torch.bmm(mixed_NTE, kv_2NSE[1].mT))
        grad_kv = weight_NTS.new_empty(n_streams, n_keys, 2, n_head, d_head)
        of_kv = grad_kv.permute(2, 3, 0, 1, 4)
        of_kv[1] = torch.bmm(kept.of(weight_NTS).mT, mixed_NTE).view(of_kv[1].shape)
        score_NTS = torch._softmax_backward_data(weight_grad_NTS, weight_NTS, -1, weight_NTS.dtype)
        content_HBTE = _with_bias(q_BTHE, u_HE)
        of_kv[0] = torch.bmm(score_NTS.mT, content_HBTE.flatten(0, 1)).view(of_kv[0].shape)
        content_NTE = torch.bmm(score_NTS, kv_2NSE[0]).mul_(scale)
        raw_HNS = _unshifted(score_NTS).view(n_head, n_streams * tgt_len, n_keys)
        position_HNE = (raw_HNS @ r_HSE).mul_(scale)
        r_grad_HSE = raw_HNS.mT @ _with_bias(q_BTHE, v_HE).flatten(1, 2)
        u_grad_HE = content_NTE.view(n_head, -1, d_head).sum(1, dtype=u_HE.dtype)
        v_grad_HE = position_HNE.sum(1, dtype=v_HE.dtype)
        q_grad_BTHE = _streams_first(content_NTE.add_(position_HNE.view_as(content_NTE)), n_head)
        return q_grad_BTHE, grad_kv, r_grad_HSE.transpose(0, 1), u_grad_HE, v_grad_HE, None, None


def _with_bias(q_BTHE: Tensor, bias_HE: Tensor) -> Tensor:
    """(q + bias)/√E, `[H, B, T, E]`, contiguous, in the dtype of q."""
    out_HBTE = q_BTHE.new_empty(q_BTHE.permute(2, 0, 1, 3).shape)
    out_HBTE.copy_(q_BTHE.permute(2, 0, 1, 3))
    return out_HBTE.add_(bias_HE[:, None, None]).mul_(1 / math.sqrt(q_BTHE.shape[-1]))


def _unshifted(score_NTS: Tensor) -> Tensor:
    """The gradient of the raw position scores, `[N, T·S]`: zero where no key reads one."""
    n, tgt_len, n_keys = score_NTS.shape
    raw_NX = score_NTS.new_empty(n, tgt_len * n_keys)
    raw_NX[:, : tgt_len - 1] = 0
    raw_NX[:, tgt_len - 1 : -1].view(n, tgt_len, n_keys - 1).copy_(score_NTS[:, :, :-1])
    raw_NX[:, -1] = score_NTS[:, -1, -1]
    return raw_NX


def _streams_first(x_NTE: Tensor, n_head: int) -> Tensor:
    """`[H·B, T, E]` to `[B, T, H, E]`, contiguous."""
    x_HBTE = x_NTE.view(n_head, -1, *x_NTE.shape[1:])
    return x_HBTE.permute(1, 2, 0, 3).contiguous()


def _minus_infinity(hidden_keys: Tensor, dtype: torch.dtype) -> Tensor:
    """What hides keys when it is added, several times faster than filling: `[T, n]`, or with B."""
    added = torch.zeros(hidden_keys.shape, dtype=dtype).masked_fill_(hidden_keys, -torch.inf)
    return added if added.dim() == 2 else added.transpose(0, 1)
