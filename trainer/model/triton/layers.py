"""A layer of Transformer-XL on a GPU: aligned rows, fused kernels, and no mask.

Results equal the plain layer's, except for rounding and the draws of dropout. Nothing waits for the
device, and no shape depends on data. A layer that is computed again in the backward pass draws the
same seeds of dropout, because `torch.utils.checkpoint` restores the generator.

B streams · T tgt_len · M mem_len · S = M+T · H heads · E d_head · D d_model · F d_inner; P, X and G
are D, E and F with their pads, see `alignment`.
"""

import math
from typing import Any

import torch
from torch import Tensor

from trainer.model.attention import RelativeAttention, heads_first
from trainer.model.backend import compute_dtype
from trainer.model.feed_forward import FeedForward
from trainer.model.layer import Hidden, Twin, narrow, wide
from trainer.model.memory.past import Past
from trainer.model.triton.alignment import aligned
from trainer.model.triton.attention import fused_attention
from trainer.model.triton.products import linear, twice_linear
from trainer.model.triton.rows.feed_forward import bias_relu_dropout
from trainer.model.triton.rows.norm import norm, residual, residual_norm
from trainer.model.triton.rows.queries import biased_queries


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
        visible_from_BT: the result of `trainer.model.memory.sight.visible_from`.
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
    """Return attention's output, `[B, T, P]`, and what `RelativeAttention` returns besides."""
    n_streams, tgt_len, _ = x_BTP.shape
    heads = (module.n_head, -1)
    q_BTX, old_BM2HX, new_BT2HX = _projected(module, x_BTP, past)
    if past.r_SHE is None:
        assert past.position_SD is not None
        r_SX = linear(module.position, past.position_SD, n_out=module.n_head)
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
        old_BM2HX,
        new_BT2HX,
        torch.unflatten(position_HNS, 1, (n_streams, tgt_len)).transpose(0, 1),
        visible_from_BT=visible_from_BT,
        dropout=module.attn_dropout if module.training else 0.0,
        seed=seed,
    )
    out_BTP = linear(module.out, mixed_BTHX.flatten(2), n_in=module.n_head)
    n_keys = old_BM2HX.shape[1] + tgt_len
    return out_BTP, None if past.written is None else heads_first(r_SHX[:n_keys])


def _projected(
    module: RelativeAttention, x_BTP: Tensor, past: Past
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the segment's queries, the keys and values of memory, and those of the segment.

    Memory is projected by itself: mostly no gradient goes back to it.
    """
    n_head, written = module.n_head, past.written
    kept = past.memory_BMD if written is None else written.rows_2HBCE
    assert kept is not None, "a past has inputs, or what is written"
    new_BTP = _normalised_before(module, x_BTP.to(kept.dtype))
    if written is not None:
        q_BTX = linear(module.query, new_BTP, n_out=n_head)
        new_BT2HX = _split(linear(module.key_value, new_BTP, n_out=2 * n_head), n_head)
        written.write(new_BT2HX)
        return q_BTX, written.before, new_BT2HX
    old_BMP = _normalised_before(module, kept)
    q_BTX, old_BMX, new_BTX = twice_linear(
        module.query, module.key_value, new_BTP, old_BMP, n_out=(n_head, 2 * n_head)
    )
    return q_BTX, _split(old_BMX, n_head), _split(new_BTX, n_head)


def _split(kv_BnX: Tensor, n_head: int) -> Tensor:
    """Return keys and values, head by head."""
    return torch.unflatten(kv_BnX, -1, (2, n_head, -1))


def _fed_forward(module: FeedForward, x_BTP: Tensor, seed: Tensor | None) -> Tensor:
    x_BTP = _normalised_before(module, x_BTP)
    dropout = module.dropout if module.training else 0.0
    product_BTG = linear(module.inner, x_BTP)
    bias_F = module.inner.bias
    inner_BTG = bias_relu_dropout(
        product_BTG, bias_F, width=len(bias_F), dropout=dropout, seed=seed
    )
    return linear(module.outer, inner_BTG)


def _added(
    module: RelativeAttention | FeedForward,
    x_BTP: Tensor,
    branch_BTP: Tensor,
    seed: Tensor | None,
    dtype: torch.dtype,
) -> Twin:
    """Return input plus dropped-out branch, normalised unless the layer normalises its input.

    The bias of the branch's last product is added here. What is normalised comes in `dtype` too, in
    which the next product takes it.
    """
    weight_D, bias_D = module.norm.weight, module.norm.bias
    how: dict[str, Any] = {
        "branch_bias_D": module.outer.bias if isinstance(module, FeedForward) else None,
        "width": len(weight_D),
        "dropout": module.dropout if module.training else 0.0,
        "seed": seed,
    }
    if module.pre_norm:
        x_BTP = residual(x_BTP, branch_BTP, **how)
        return Twin(x_BTP, x_BTP)
    return Twin(*residual_norm(x_BTP, branch_BTP, weight_D, bias_D, **how, narrow=dtype))


def _normalised_before(module: RelativeAttention | FeedForward, x: Tensor) -> Tensor:
    """Return what a layer that normalises its input reads of it."""
    if not module.pre_norm:
        return x
    return norm(x, module.norm.weight, module.norm.bias, width=len(module.norm.weight))
