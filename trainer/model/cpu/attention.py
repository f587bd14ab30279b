"""Relative attention on a CPU: plain batched products that keep one matrix of weights.

Heads come first, so that one product serves the positions of all streams. rel_shift moves nothing:
in the flattened `[T, S]` matrix of raw position scores, the scores from index T-1 on are those of
the keys, S-1 to a row. The S-th key of a row is hidden, except in the last row, where its score is
the last of the matrix.

Without a backward pass, a few queries at a time attend to the keys from the first to the last that
they see: consecutive queries are a shorter segment with a longer memory.

B streams · T tgt_len · M mem_len · S = M+T · H heads · E d_head · N = H·B.
"""

import math
from typing import Any

import torch
from torch import Tensor

from trainer.model.cpu.word_runs import runs
from trainer.model.dropout import Kept, kept_at_random

#: Queries at a time: few enough that the scores of all heads stay in the cache, few of them hidden.
_QUERIES = 64
#: Queries so few that keys and values are not worth copying for them.
_FEW_QUERIES = 4


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
    """Compute `trainer.model.attention.relative_attention` in the dtype of the queries."""
    with torch.autocast(q_BTHE.device.type, enabled=False):
        if not dropout and not torch.is_grad_enabled():
            return _reading(q_BTHE, kv_BS2HE, r_SHE, content_bias_HE, position_bias_HE, hidden_keys)
        mixed_BTHE: Tensor = _CpuAttention.apply(  # type: ignore[no-untyped-call]
            q_BTHE, kv_BS2HE, r_SHE, content_bias_HE, position_bias_HE, hidden_keys, dropout
        )
    return mixed_BTHE


def _reading(
    q_BTHE: Tensor,
    kv_BS2HE: Tensor,
    r_SHE: Tensor,
    u_HE: Tensor,
    v_HE: Tensor,
    hidden_keys: Tensor,
) -> Tensor:
    """Attend with a few queries at a time; return `[B, T, H, E]`, without a backward pass."""
    # Views, where keys and values are written heads first.
    kv_2NSE, r_HSE = kv_BS2HE.permute(2, 3, 0, 1, 4).flatten(1, 2), r_SHE.transpose(0, 1)
    tgt_len, n_keys = q_BTHE.shape[1], r_HSE.shape[1]
    n_seen_by_all = n_keys - hidden_keys.shape[-1]
    buffers = _buffers(kv_2NSE.shape[1] * min(tgt_len, _QUERIES) * n_keys, like=q_BTHE)
    mixed = []
    for rows in runs(tgt_len, size=_QUERIES):
        # The last of these queries is at distance 0 from its own key, as in any segment: the keys
        # take the last positions.
        last = n_keys - tgt_len + rows.stop
        hidden = hidden_keys[..., rows, : last - n_seen_by_all]
        first = 0 if n_seen_by_all else _n_hidden_from_all(hidden)
        k_NSE, v_NSE = (_laid_out(kv_NSE[:, first:last], tgt_len) for kv_NSE in kv_2NSE)
        weight_NTS = _weights(
            _with_bias(q_BTHE[:, rows], v_HE),
            _with_bias(q_BTHE[:, rows], u_HE),
            k_NSE,
            _laid_out(r_HSE[:, first - last :], tgt_len),
            hidden[..., first:],
            buffers,
        )
        mixed.append(torch.bmm(weight_NTS, v_NSE))
    return _streams_first(torch.cat(mixed, dim=1), q_BTHE.shape[2])


def _laid_out(rows_NSE: Tensor, n_queries: int) -> Tensor:
    """Return keys, values or positions as the products of so many queries take them fastest.

    A contiguous copy is made for many queries, because the one that oneDNN would make itself takes
    many times as long. A few queries in fp32 read the rows hardly more often than a copy would.
    """
    is_copied = n_queries > _FEW_QUERIES or rows_NSE.dtype.itemsize < 4
    return rows_NSE.contiguous() if is_copied else rows_NSE


def _n_hidden_from_all(hidden_keys: Tensor) -> int:
    """Return how many of the oldest keys no query sees, rounded down.

    Rounding leaves few different numbers of keys: oneDNN makes, and keeps, a program for each.
    """
    is_seen = ~hidden_keys.flatten(0, -2).all(dim=0)
    step = _QUERIES * max(1, len(is_seen) // (16 * _QUERIES))
    return int(is_seen.to(torch.uint8).argmax()) // step * step


class _CpuAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BTHE: Tensor,
        kv_BS2HE: Tensor,
        r_SHE: Tensor,
        u_HE: Tensor,
        v_HE: Tensor,
        hidden_keys: Tensor,
        dropout: float,
    ) -> Tensor:
        """Return `[B, T, H, E]`; keep the weights, and copies of keys and values, heads first."""
        kv_2NSE, r_HSE = _heads_first(kv_BS2HE, r_SHE)
        position_HBTE, content_HBTE = _with_bias(q_BTHE, v_HE), _with_bias(q_BTHE, u_HE)
        weight_NTS = _weights(position_HBTE, content_HBTE, kv_2NSE[0], r_HSE, hidden_keys)
        del position_HBTE, content_HBTE
        kept = kept_at_random(weight_NTS.shape, dropout) if dropout else Kept(None, 1.0)
        mixed_NTE = torch.bmm(kept.of(weight_NTS), kv_2NSE[1])
        ctx.save_for_backward(q_BTHE, kv_2NSE, r_HSE, u_HE, v_HE, weight_NTS, kept.mask)
        ctx.kept_scale = kept.scale
        return _streams_first(mixed_NTE, q_BTHE.shape[2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of queries, keys with values, positions, and both biases."""
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
        of_r = r_grad_HSE.transpose(0, 1)
        return q_grad_BTHE, grad_kv, of_r, u_grad_HE, v_grad_HE, None, None


def _heads_first(kv_BS2HE: Tensor, r_SHE: Tensor) -> tuple[Tensor, Tensor]:
    """Return copies of keys and values, `[2, H·B, S, E]`, and of positions, `[H, S, E]`."""
    kv_2HBSE = kv_BS2HE.permute(2, 3, 0, 1, 4).contiguous()
    return kv_2HBSE.flatten(1, 2), r_SHE.transpose(0, 1).contiguous()


def _buffers(n_scores: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return one buffer for raw position scores, later weights, and one for scores."""
    return like.new_empty(n_scores), like.new_empty(n_scores)


def _weights(
    position_HBTE: Tensor,
    content_HBTE: Tensor,
    k_NSE: Tensor,
    r_HSE: Tensor,
    hidden_keys: Tensor,
    buffers: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Compute the weights of the values, `[H·B, T, S]`, in the first of `buffers`.

    `position_HBTE` and `content_HBTE` are the queries with each bias, see `_with_bias`.
    """
    n_head, n_streams, tgt_len, _ = content_HBTE.shape
    n, n_keys, _ = k_NSE.shape
    shape = n, tgt_len, n_keys
    raw, score_NTS = (
        buffer[: math.prod(shape)].view(shape)
        for buffer in buffers or _buffers(math.prod(shape), like=content_HBTE)
    )
    raw_HNS, raw_NX = raw.view(n_head, -1, n_keys), raw.view(n, -1)
    torch.bmm(position_HBTE.flatten(1, 2), r_HSE.mT, out=raw_HNS)
    torch.bmm(content_HBTE.flatten(0, 1), k_NSE.mT, out=score_NTS)
    score_NTS[:, :, :-1] += raw_NX[:, tgt_len - 1 : -1].view(n, tgt_len, n_keys - 1)
    score_NTS[:, -1, -1] += raw_NX[:, -1]
    newest = score_NTS.view(n_head, n_streams, tgt_len, n_keys)[..., -hidden_keys.shape[-1] :]
    newest += _minus_infinity(hidden_keys, score_NTS.dtype)
    return torch.softmax(score_NTS, dim=-1, out=raw)


def _with_bias(q_BTHE: Tensor, bias_HE: Tensor) -> Tensor:
    """Return (q + bias)/√E, `[H, B, T, E]`, contiguous, in the dtype of q."""
    out_HBTE = q_BTHE.new_empty(q_BTHE.permute(2, 0, 1, 3).shape)
    out_HBTE.copy_(q_BTHE.permute(2, 0, 1, 3))
    return out_HBTE.add_(bias_HE[:, None, None]).mul_(1 / math.sqrt(q_BTHE.shape[-1]))


def _unshifted(score_NTS: Tensor) -> Tensor:
    """Return the gradient of the raw position scores, `[N, T·S]`; zero where no key uses one."""
    n, tgt_len, n_keys = score_NTS.shape
    raw_NX = score_NTS.new_empty(n, tgt_len * n_keys)
    raw_NX[:, : tgt_len - 1] = 0
    raw_NX[:, tgt_len - 1 : -1].view(n, tgt_len, n_keys - 1).copy_(score_NTS[:, :, :-1])
    raw_NX[:, -1] = score_NTS[:, -1, -1]
    return raw_NX


def _streams_first(x_NTE: Tensor, n_head: int) -> Tensor:
    """Return a `[H·B, T, E]` tensor as `[B, T, H, E]`, contiguous."""
    x_HBTE = x_NTE.view(n_head, -1, *x_NTE.shape[1:])
    return x_HBTE.permute(1, 2, 0, 3).contiguous()


def _minus_infinity(hidden_keys: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a bias that hides keys, `[T, n]` or `[1, B, T, n]`: adding is faster than filling."""
    added = torch.zeros(hidden_keys.shape, dtype=dtype).masked_fill_(hidden_keys, -torch.inf)
    return added if added.dim() == 2 else added.transpose(0, 1)
