"""A layer of Transformer-XL on a GPU: aligned rows, fused kernels, and no mask.

Results equal the plain layer's, except for rounding and the draws of dropout. Nothing waits for the
device, and no shape depends on data. A layer that is computed again in the backward pass draws the
same seeds of dropout, because `torch.utils.checkpoint` restores the generator.

B streams · T tgt_len · M mem_len · S = M+T · H heads · E d_head · D d_model · F d_inner; P, X and G
are D, E and F with their pads, see `alignment`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.attention import RelativeAttention, heads_first
from trainer.model.backend import compute_dtype
from trainer.model.feed_forward import FeedForward
from trainer.model.layer import Hidden, Twin, narrow, wide
from trainer.model.memory import Past
from trainer.model.triton.alignment import aligned, aligned_weight
from trainer.model.triton.attention import fused_attention
from trainer.model.triton.copies import computed
from trainer.model.triton.feed_forward import bias_relu_dropout
from trainer.model.triton.norm import norm, residual, residual_norm
from trainer.model.triton.queries import biased_queries


def fused_layer(
    attention: RelativeAttention,
    feed_forward: FeedForward,
    x_BTP: Hidden,
    past: Past,
    *,
    visible_from_BT: Tensor | None,
    shared_biases: tuple[Tensor, Tensor] | None,
    seeds_4: Tensor | None,
) -> tuple[Hidden, Tensor | None]:
    """Return the layer's output, `[B, T, P]`, and what `RelativeAttention` returns besides.

    The weights of both halves are read here, not by the modules that own them: ZeRO-3 gathers all
    weights of a layer when the layer is called, see `trainer.engine.deepspeed`.

    Args:
        attention: the first half, of which only the parameters are used.
        feed_forward: the second half, of which only the parameters are used.
        x_BTP: the layer's input, in aligned rows.
        past: aligned rows; the number of distances is aligned too.
        visible_from_BT: the result of `trainer.model.memory.visible_from`.
        shared_biases: None if the layer has its own.
        seeds_4: int64 on the device, one per place of dropout; None in evaluation.
    """
    seeds = [None] * 4 if seeds_4 is None else seeds_4.unbind()
    dtype, read_BTP = compute_dtype(wide(x_BTP)), narrow(x_BTP)
    branch_BTP, r_SHX = _attended(
        attention, read_BTP, past, visible_from_BT, shared_biases, seeds[0]
    )
    twin = _added(attention, wide(x_BTP), branch_BTP, seeds[1], dtype)
    branch_BTP = _fed_forward(feed_forward, twin.narrow, seeds[2])
    twin = _added(feed_forward, twin.wide, branch_BTP, seeds[3], dtype)
    return twin if twin.narrow is not twin.wide else twin.wide, r_SHX


def _attended(
    module: RelativeAttention,
    x_BTP: Tensor,
    past: Past,
    visible_from_BT: Tensor | None,
    shared_biases: tuple[Tensor, Tensor] | None,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    n_streams, tgt_len, _ = x_BTP.shape
    heads = (module.n_head, -1)
    q_BTX, kv_BS2HX = _projected(module, x_BTP, past)
    if past.r_SHE is None:
        assert past.position_SD is not None
        r_SX = _linear(module.position, past.position_SD, n_out=module.n_head)
        r_SHX = torch.unflatten(r_SX, -1, heads)
    else:
        r_SHX = aligned(past.r_SHE, dim=0)
    biases = shared_biases if module.biases is None else module.biases()
    assert biases is not None, "biases are either shared or the layer's own"
    # Heads come first, so that one product serves the positions of all streams.
    content_BTHX, position_HNX = biased_queries(
        q_BTX, *map(aligned, biases), scale=1 / math.sqrt(module.d_head)
    )
    position_HNS = position_HNX @ r_SHX.permute(1, 2, 0)
    mixed_BTHX = fused_attention(
        content_BTHX,
        kv_BS2HX,
        torch.unflatten(position_HNS, 1, (n_streams, tgt_len)).transpose(0, 1),
        visible_from_BT=visible_from_BT,
        dropout=module.attn_dropout if module.training else 0.0,
        seed=seed,
    )
    out_BTP = _linear(module.out, mixed_BTHX.flatten(2), n_in=module.n_head)
    return out_BTP, None if past.written is None else heads_first(r_SHX[: kv_BS2HX.shape[1]])


def _projected(module: RelativeAttention, x_BTP: Tensor, past: Past) -> tuple[Tensor, Tensor]:
    """Return the segment's queries, and the keys and values of memory and segment."""
    n_head, heads = module.n_head, (2, module.n_head, -1)
    if past.written is not None:
        new_BTP = x_BTP.to(past.written.rows_2HBCE.dtype)
        new_BTP = _normalised(module.norm, new_BTP) if module.pre_norm else new_BTP
        kv_BTX = _linear(module.key_value, new_BTP, n_out=2 * n_head)
        kv_BS2HX = past.written.append(torch.unflatten(kv_BTX, -1, heads))
        return _linear(module.query, new_BTP, n_out=n_head), kv_BS2HX
    assert past.memory_BMD is not None
    new_BTP = x_BTP.to(past.memory_BMD.dtype)
    x_BSP = torch.cat([past.memory_BMD, new_BTP], dim=1)
    if module.pre_norm:
        x_BSP = _normalised(module.norm, x_BSP)
        new_BTP = x_BSP[:, -new_BTP.shape[1] :]
    kv_BSX = _linear(module.key_value, x_BSP, n_out=2 * n_head)
    return _linear(module.query, new_BTP, n_out=n_head), torch.unflatten(kv_BSX, -1, heads)


def _fed_forward(module: FeedForward, x_BTP: Tensor, seed: Tensor | None) -> Tensor:
    if module.pre_norm:
        x_BTP = _normalised(module.norm, x_BTP)
    dropout = module.dropout if module.training else 0.0
    product_BTG = F.linear(x_BTP, aligned_weight(computed(module.inner.weight)))
    bias_F = module.inner.bias
    inner_BTG = bias_relu_dropout(
        product_BTG, bias_F, width=len(bias_F), dropout=dropout, seed=seed
    )
    return _linear(module.outer, inner_BTG)


def _added(
    module: RelativeAttention | FeedForward,
    x_BTP: Tensor,
    branch_BTP: Tensor,
    seed: Tensor | None,
    dtype: torch.dtype,
) -> Twin:
    """Return input plus dropped-out branch, normalised unless the layer normalises its input.

    What is normalised comes in `dtype` too, in which the next product takes it.
    """
    dropout = module.dropout if module.training else 0.0
    weight_D, bias_D, width = module.norm.weight, module.norm.bias, len(module.norm.weight)
    if module.pre_norm:
        x_BTP = residual(x_BTP, branch_BTP, width=width, dropout=dropout, seed=seed)
        return Twin(x_BTP, x_BTP)
    made = residual_norm(
        x_BTP,
        branch_BTP,
        weight_D,
        bias_D,
        width=width,
        dropout=dropout,
        seed=seed,
        narrow=dtype,
    )
    return Twin(*made)


def _linear(module: nn.Linear, x: Tensor, *, n_in: int = 1, n_out: int = 1) -> Tensor:
    bias = None if module.bias is None else aligned(computed(module.bias))
    return F.linear(x, aligned_weight(computed(module.weight), n_in=n_in, n_out=n_out), bias)


def _normalised(module: nn.LayerNorm, x: Tensor) -> Tensor:
    return norm(x, module.weight, module.bias, width=len(module.weight))
