"""Storing the weights of a Transformer-XL in aligned rows, in which its layers on a GPU compute."""

import torch
from torch import nn

from trainer.model.attention import PositionBiases
from trainer.model.choice import backend_name
from trainer.model.layer import Layer
from trainer.model.transformer_xl import TransformerXL
from trainer.model.triton.alignment import store_rows, store_weight


def store_for(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Store a model's weights as its back end on `device` reads them fastest, in place."""
    if not isinstance(model, TransformerXL):
        return
    if backend_name(model.config.kernels, device, dtype) == "triton":
        store_aligned(model)


def store_aligned(model: TransformerXL) -> None:
    """Give weights the pads that a GPU's back end would add in every pass, in place.

    Parameters stay the same objects under the same names: `pads_of` knows their logical shapes.
    """
    for table in (*model.embedding.tables, *model.softmax.tables):
        store_rows(table)
    if model.softmax.cluster_weight is not None:
        store_rows(model.softmax.cluster_weight)
    for projection in (*model.embedding.projections, *model.softmax.projections):
        store_weight(projection)
    for module in model.modules():
        if isinstance(module, PositionBiases):
            store_rows(module.content_HE)
            store_rows(module.position_HE)
        elif isinstance(module, Layer):
            _store_layer(module)


def _store_layer(layer: Layer) -> None:
    attention, feed_forward = layer.attention, layer.feed_forward
    n_head = attention.n_head
    store_weight(attention.query.weight, n_out=n_head)
    store_weight(attention.key_value.weight, n_out=2 * n_head)
    store_weight(attention.position.weight, n_out=n_head)
    store_weight(attention.out.weight, n_in=n_head)
    store_weight(feed_forward.inner.weight)
    store_weight(feed_forward.outer.weight)
    store_rows(feed_forward.outer.bias)
