"""The table of our parameters and the tensors of Hugging Face's TransfoXL, for both directions.

A parameter of ours is a range of rows of a tensor of theirs, in import as in export. The tensors of
kimiyoung, NVIDIA and fairseq differ from Hugging Face's in prefixes and in the order of the
softmax's clusters: see `trainer.exchange.layouts`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.config.recipe import ModelConfig
from trainer.errors import InputError
from trainer.model.transformer_xl import TransformerXL

_EMBEDDING, _SOFTMAX = "transformer.word_emb", "crit"

#: The parameters of a layer that are whole tensors of theirs.
_OF_A_LAYER = {
    "attention.position.weight": "dec_attn.r_net.weight",
    "attention.out.weight": "dec_attn.o_net.weight",
    "attention.norm.weight": "dec_attn.layer_norm.weight",
    "attention.norm.bias": "dec_attn.layer_norm.bias",
    "feed_forward.inner.weight": "pos_ff.CoreNet.0.weight",
    "feed_forward.inner.bias": "pos_ff.CoreNet.0.bias",
    "feed_forward.outer.weight": "pos_ff.CoreNet.3.weight",
    "feed_forward.outer.bias": "pos_ff.CoreNet.3.bias",
    "feed_forward.norm.weight": "pos_ff.layer_norm.weight",
    "feed_forward.norm.bias": "pos_ff.layer_norm.bias",
}
_BIASES = {"content_HE": "r_w_bias", "position_HE": "r_r_bias"}


class TensorPair(NamedTuple):
    """A parameter of ours, and the tensor of theirs whose rows `begin … end - 1` it is."""

    ours: str
    theirs: str
    begin: int
    end: int


class NameTable(NamedTuple):
    """A model's pairs of tensors, and the content of a state dict of theirs."""

    pairs: list[TensorPair]
    shapes: dict[str, tuple[int, ...]]
    """The shape of every tensor of theirs in `pairs`, by its name."""
    copies: dict[str, str]
    """For each tensor that repeats another, the other's name: a state dict may lack one of them."""


def table_of(config: ModelConfig, vocabulary_size: int) -> NameTable:
    """Return the table of a model."""
    with torch.device("meta"):
        model = TransformerXL(config, vocabulary_size)
    ours = {name: tuple(p.shape) for name, p in model.named_parameters()}
    bounds = model.embedding.bounds
    rows = [*_layer_rows(config), *_bias_rows(config), *_cluster_rows(config, bounds)]
    pairs = [
        TensorPair(name, theirs, begin, begin + ours[name][0])
        for name, theirs, begin in rows
        if name in ours  # tied parameters and missing projections are not
    ]
    assert {pair.ours for pair in pairs} == set(ours), "the table names every parameter"
    shapes: dict[str, tuple[int, ...]] = {}
    for pair in pairs:
        n_rows = max(pair.end, *shapes.get(pair.theirs, (0,))[:1])
        shapes[pair.theirs] = (n_rows, *ours[pair.ours][1:])
    copies = {copy: kept for copy, kept in _copies(config, len(bounds)) if copy not in shapes}
    return NameTable(pairs, shapes, {copy: kept for copy, kept in copies.items() if kept in shapes})


def to_ours(theirs: Mapping[str, Tensor], table: NameTable, *, where: str) -> dict[str, Tensor]:
    """Return our parameters, in fp32, from tensors by Hugging Face's names.

    Raises:
        InputError: lists the tensors that are missing, unknown, of another shape, or not the copies
            that they should be.
    """
    # A file may hold any one of several shared tensors.
    full = {kept: theirs[copy] for copy, kept in table.copies.items() if copy in theirs} | {
        **theirs
    }
    problems = [
        f"{name} is missing (should be {_by(shape)})"
        for name, shape in table.shapes.items()
        if name not in full
    ]
    for name, tensor in full.items():
        kept = table.copies.get(name, name)
        shape = table.shapes.get(kept)
        if shape is None:
            problems.append(f"{name} ({_by(tensor.shape)}) has no place in the model")
        elif tuple(tensor.shape) != shape:
            problems.append(f"{name} is {_by(tensor.shape)}, by its configuration {_by(shape)}")
        elif not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            problems.append(f"{name} ({tensor.dtype}) holds something else than finite numbers")
        elif kept != name and not torch.equal(tensor, full[kept]):
            problems.append(f"{name} differs from {kept}, with which it should be shared")
    wanted = sum(math.prod(shape) for shape in table.shapes.values())
    if not problems and wanted > (held := _n_held(full.values())):
        problems.append(f"its tensors share memory: {wanted:,} numbers are wanted of {held:,}")
    if problems:
        raise InputError(f"{where}: {'; '.join(problems)}")
    return {
        pair.ours: full[pair.theirs][pair.begin : pair.end].to(torch.float32, copy=True)
        for pair in table.pairs
    }


def _n_held(tensors: Iterable[Tensor]) -> int:
    """Return how many numbers tensors hold; those that several tensors view count once."""
    held: dict[int, int] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes() // tensor.itemsize
    return sum(held.values())


def to_theirs(ours: Mapping[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """Return tensors by Hugging Face's names, including copies, from our parameters."""
    pieces: dict[str, list[tuple[int, Tensor]]] = {}
    for pair in table.pairs:
        pieces.setdefault(pair.theirs, []).append((pair.begin, ours[pair.ours]))
    theirs = {
        name: torch.cat([tensor for _, tensor in sorted(rows, key=lambda piece: piece[0])])
        for name, rows in pieces.items()
    }
    return theirs | {copy: theirs[kept].clone() for copy, kept in table.copies.items()}


def _layer_rows(config: ModelConfig) -> Iterator[tuple[str, str, int]]:
    for i in range(config.n_layer):
        for name, theirs in _OF_A_LAYER.items():
            yield f"layers.{i}.{name}", f"transformer.layers.{i}.{theirs}", 0
        joint = f"transformer.layers.{i}.dec_attn.qkv_net.weight"
        yield f"layers.{i}.attention.query.weight", joint, 0
        yield f"layers.{i}.attention.key_value.weight", joint, config.n_head * config.d_head


def _bias_rows(config: ModelConfig) -> Iterator[tuple[str, str, int]]:
    for name, theirs in _BIASES.items():
        yield f"biases.{name}", f"transformer.{theirs}", 0
        for i in range(config.n_layer):
            own = f"layers.{i}.attention.biases.{name}"
            yield own, f"transformer.layers.{i}.dec_attn.{theirs}", 0


def _cluster_rows(
    config: ModelConfig, bounds: list[tuple[int, int]]
) -> Iterator[tuple[str, str, int]]:
    for name in ("cluster_weight", "cluster_bias"):
        yield f"softmax.{name}", f"{_SOFTMAX}.{name}", 0
    for c, (low, _) in enumerate(bounds):
        # If all clusters have one width, they are rows of one table of theirs.
        i, begin = (0, low) if config.div_val == 1 else (c, 0)
        yield f"embedding.tables.{c}", f"{_EMBEDDING}.emb_layers.{i}.weight", begin
        yield f"softmax.tables.{c}", f"{_SOFTMAX}.out_layers.{i}.weight", begin
        yield f"softmax.biases.{c}", f"{_SOFTMAX}.out_layers.{i}.bias", begin
        yield f"embedding.projections.{c}", f"{_EMBEDDING}.emb_projs.{c}", 0
        yield f"softmax.projections.{c}", f"{_SOFTMAX}.out_projs.{c}", 0


def _copies(config: ModelConfig, n_clusters: int) -> Iterator[tuple[str, str]]:
    for c in range(n_clusters):
        yield f"{_SOFTMAX}.out_layers.{c}.weight", f"{_EMBEDDING}.emb_layers.{c}.weight"
        i = 0 if config.div_val == 1 else c
        yield f"{_SOFTMAX}.out_projs.{c}", f"{_EMBEDDING}.emb_projs.{i}"
    for theirs in _BIASES.values():
        for layer in range(config.n_layer):
            yield f"transformer.layers.{layer}.dec_attn.{theirs}", f"transformer.{theirs}"


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"
