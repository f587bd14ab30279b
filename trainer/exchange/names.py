"""Which tensor of Hugging Face's TransfoXL is which parameter of ours, in both directions.

kimiyoung's, NVIDIA's and fairseq's tensors differ from these in prefixes and in the order of the
softmax's clusters: see `trainer.exchange.layouts`. One table serves import and export: a parameter
of ours is a range of rows of a tensor of theirs.
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

#: A layer's tensors that are whole ones of theirs.
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
    """A model's pairs of tensors, and what a state dict of theirs holds."""

    pairs: list[TensorPair]
    shapes: dict[str, tuple[int, ...]]
    """Of every tensor in `pairs`, by its name there."""
    copies: dict[str, str]
    """Name of a tensor that repeats another's, and that other name: a state dict may lack it."""


def table_of(config: ModelConfig, vocabulary_size: int) -> NameTable:
    """The table of a model."""
    with torch.device("meta"):
        model = TransformerXL(config, vocabulary_size)
    ours = {name: tuple(p.shape) for name, p in model.named_parameters()}
    bounds = model.embedding.bounds
    rows = [*_layer_rows(config), *_bias_rows(config), *_cluster_rows(config, bounds)]
    pairs = [
        TensorPair(name, theirs, begin, begin + ours[name][0])
        for name, theirs, begin in rows
        if name in ours  # what is tied, or has no projection, is not
    ]
    assert {pair.ours for pair in pairs} == set(ours), "the table names every parameter"
    shapes: dict[str, tuple[int, ...]] = {}
    for pair in pairs:
        n_rows = max(pair.end, *shapes.get(pair.theirs, (0,))[:1])
        shapes[pair.theirs] = (n_rows, *ours[pair.ours][1:])
    copies = {copy: kept for copy, kept in _copies(config, len(bounds)) if copy not in shapes}
    return NameTable(pairs, shapes, {copy: kept for copy, kept in copies.items() if kept in shapes})


def to_ours(theirs: Mapping[str, Tensor], table: NameTable, *, where: str) -> dict[str, Tensor]:
    """Parameters of ours, in fp32, from tensors by Hugging Face's names.

    Raises:
        InputError: all tensors that are missing, unknown or of another shape, or that are not the
            copies they should be.
    """
    # Of tensors that are shared, a file may hold any one.
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
    """Numbers that tensors hold, those that several show counted once."""
    held: dict[int, int] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes() // tensor.itemsize
    return sum(held.values())


def to_theirs(ours: Mapping[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """Tensors by Hugging Face's names, copies written out, from parameters of ours."""
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
        # Of one width, all clusters are rows of one table there.
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
