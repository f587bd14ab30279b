"""Weights of a Transformer-XL as a GPU stores them: in aligned rows, and as copies."""

import torch
from torch import Tensor, nn

from trainer.model.attention import PositionBiases
from trainer.model.choice import backend_name
from trainer.model.layer import Layer
from trainer.model.token_tables import TokenTable
from trainer.model.transformer_xl import TransformerXL
from trainer.model.triton.alignment import store_rows, store_weight, stored
from trainer.model.triton.copies import Copies


def on_kernels(model: nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether a model computes with the kernels of this room."""
    if not isinstance(model, TransformerXL):
        return False
    return backend_name(model.config.kernels, device, dtype) == "triton"


def store_aligned(model: nn.Module) -> None:
    """Give weights the pads that a GPU's back end would add in every pass, in place.

    Parameters stay the same objects under the same names: `pads_of` knows their logical shapes.
    """
    assert isinstance(model, TransformerXL), "see `on_kernels`"
    for table in (*model.embedding.tables, *model.softmax.tables):
        store_rows(table)
    for module in model.modules():
        if isinstance(module, TokenTable):
            store_rows(module.weight)
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
    model.softmax.n_columns = stored(model.config.d_model)


def copies_of(model: nn.Module, dtype: torch.dtype) -> Copies:
    """Return copies of all that is multiplied, see `multiplied`."""
    return Copies(multiplied(model), dtype)


def multiplied(model: nn.Module) -> list[Tensor]:
    """Return the weights that have copies: the layers' matrices, and the softmax's tables."""
    assert isinstance(model, TransformerXL), "see `on_kernels`"
    weights: list[Tensor] = [*model.softmax.tables]
    for layer in model.layers:
        assert isinstance(layer, Layer)
        attention, feed_forward = layer.attention, layer.feed_forward
        weights += [
            attention.query.weight,
            attention.key_value.weight,
            attention.position.weight,
            attention.out.weight,
            feed_forward.inner.weight,
            feed_forward.outer.weight,
        ]
    return weights


def _store_layer(layer: Layer) -> None:
    attention, feed_forward = layer.attention, layer.feed_forward
    n_head = attention.n_head
    store_weight(attention.query.weight, n_out=n_head)
    store_weight(attention.key_value.weight, n_out=2 * n_head)
    store_weight(attention.position.weight, n_out=n_head)
    store_weight(attention.out.weight, n_in=n_head)
    store_weight(feed_forward.inner.weight)
    store_weight(feed_forward.outer.weight)
