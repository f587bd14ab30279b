"""Translating other trainers' configurations into our settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from trainer.config import strict
from trainer.config.recipe import ModelConfig
from trainer.errors import InputError
from trainer.exchange.stand_ins import Opaque, as_dict
from trainer.outside import parse_json, shortened

_EMBEDDING, _SOFTMAX = "transformer.word_emb", "crit"
_Model = TypeVar("_Model", bound=BaseModel)
_SIZES = ("n_layer", "d_model", "n_head", "d_head", "d_inner")

#: The defaults of fairseq's `TransformerXLConfig`.
_FAIRSEQ_DEFAULTS = {
    "cutoffs": [20000, 40000, 200000],
    "d_model": 500,
    "n_head": 10,
    "d_head": 50,
    "d_inner": 1000,
    "div_val": 1,
    "n_layer": 12,
    "mem_len": 0,
    "clamp_len": -1,
    "same_length": False,
    "dropout": 0.0,
    "dropatt": 0.0,
}


class _Said(BaseModel):
    """The fields that are used of a foreign configuration, with its own defaults."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    n_layer: int
    d_model: int
    n_head: int
    d_head: int
    d_inner: int
    d_embed: int | None = None
    div_val: int = 1
    cutoffs: list[int] | None = None
    pre_lnorm: bool | None = None
    dropout: float = 0.0
    dropatt: float = 0.0
    tie_projs: list[bool] | None = None
    tgt_len: int | None = None
    mem_len: int | None = None
    clamp_len: int | None = None
    same_length: bool | None = None
    attn_type: int = 0
    sample_softmax: int = -1
    layer_norm_epsilon: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class ForeignConfig:
    """The configuration of another trainer's checkpoint, in our terms."""

    model: ModelConfig
    vocabulary_size: int
    tgt_len: int | None
    """Tokens of a training segment; None if the checkpoint does not say."""
    mem_len: int
    clamp_len: int | None
    same_length: bool


def of_huggingface(
    values: Mapping[str, Any], tensors: Mapping[str, Tensor], *, where: str
) -> ForeignConfig:
    """Translate `config.json`; the first releases called the vocabulary's size n_token."""
    size = "vocab_size" if "vocab_size" in values else "n_token"
    return _config(
        values,
        tensors,
        where=where,
        vocabulary_size=_need(values, size, where),
        position_biases="per_layer" if values.get("untie_r", True) else "shared",
    )


def of_kimiyoung(module: Opaque, tensors: Mapping[str, Tensor], *, where: str) -> ForeignConfig:
    """Translate the attributes of the pickled module."""
    values = dict(module.attributes)
    parts = values.get("_modules") or {}
    try:
        layers = parts["layers"].attributes["_modules"]
        first = {name: part.attributes for name, part in layers["0"].attributes["_modules"].items()}
        embedding = parts["word_emb"].attributes
        values |= {
            "cutoffs": list(embedding["cutoffs"])[:-1],  # the last one is the vocabulary's size
            "div_val": embedding["div_val"],
            "d_inner": first["pos_ff"]["d_inner"],
            "pre_lnorm": first["dec_attn"]["pre_lnorm"],
            "dropout": parts["drop"].attributes["p"],
            "dropatt": first["dec_attn"]["_modules"]["dropatt"].attributes["p"],
        }
    except (KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{where}: the pickled module lacks {error}") from None
    return _of_mem_transformer(values, tensors, where)


def of_nvidia(
    content: Mapping[str, Any], tensors: Mapping[str, Tensor], *, where: str
) -> ForeignConfig:
    """Translate `model_config`.

    With same_length a query of theirs sees mem_len + 1 keys, so our mem_len is larger by one.
    """
    values = content.get("model_config")
    if not isinstance(values, dict):
        raise InputError(f"{where}: model_config is missing")
    config = _of_mem_transformer(values, tensors, where)
    return replace(config, mem_len=config.mem_len + 1) if config.same_length else config


def _of_mem_transformer(
    values: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> ForeignConfig:
    """Translate the settings of kimiyoung's or NVIDIA's module.

    Both call the vocabulary's size n_token, and have one pair of biases for all layers.
    """
    size = _need(values, "n_token", where)
    return _config(values, tensors, where=where, vocabulary_size=size, position_biases="shared")


def of_fairseq(
    content: Mapping[str, Any], tensors: Mapping[str, Tensor], *, where: str
) -> ForeignConfig:
    """Translate `cfg` (omegaconf, since 2020) or `args` (argparse).

    fairseq's decoder is Hugging Face's model with separate biases in every layer, and without the
    cutoffs that its dictionary does not reach.
    """
    cfg, args = as_dict(content.get("cfg")), as_dict(content.get("args"))
    given = as_dict(cfg.get("model")) or args
    if not given:
        raise InputError(f"{where}: neither cfg nor args says what model this is")
    sizes = [len(t) for name, t in tensors.items() if _is_output_bias(name) and t.dim() == 1]
    if not sizes:
        kind = given.get("_name") or given.get("arch")
        there = ", ".join(sorted(tensors)[:5])
        raise InputError(
            f"{where}: {_SOFTMAX}.out_layers.0.bias is missing, so the model ({kind}) is no "
            f"transformer_xl; found {there} …"
        )
    known = {key: given[key] for key in _FAIRSEQ_DEFAULTS if key in given}
    values: dict[str, Any] = _FAIRSEQ_DEFAULTS | known
    if isinstance(values["cutoffs"], str):  # argparse keeps text
        values["cutoffs"] = parse_json(values["cutoffs"], where=f"{where}: cutoffs")
    values["tgt_len"] = (as_dict(cfg.get("task")) or args).get("tokens_per_sample")
    return _config(
        values, tensors, where=where, vocabulary_size=sum(sizes), position_biases="per_layer"
    )


def _config(
    values: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    vocabulary_size: int,
    position_biases: str,
) -> ForeignConfig:
    """Return our settings, by the values and tensors of a checkpoint by kimiyoung's names."""
    said = _checked(values, _Said, where)
    for name, only in (("attn_type", 0), ("sample_softmax", -1), ("layer_norm_epsilon", 1e-5)):
        if abs(getattr(said, name) - only) > 1e-12:
            raise InputError(
                f"{where}: {name} {getattr(said, name)} is not supported: only {only} is"
            )
    # All these trainers leave out the cutoffs that the vocabulary does not reach.
    cutoffs = [cutoff for cutoff in said.cutoffs or [] if cutoff < vocabulary_size]
    for name, number in (("n_layer", said.n_layer), ("cutoffs", len(cutoffs))):
        if number > len(tensors):  # the sizes must match the tensors before anything is built
            raise InputError(
                f"{where}: its configuration cannot be used: {name} says {number:,}, but the "
                f"checkpoint has {len(tensors)} tensors"
            )
    d_embed = said.d_embed or said.d_model
    model = {
        **{name: getattr(said, name) for name in _SIZES},
        "d_embed": None if d_embed == said.d_model else d_embed,
        "cutoffs": tuple(cutoffs),
        "div_val": said.div_val,
        "norm": "pre" if said.pre_lnorm else "post",
        "position_biases": position_biases,
        "dropout": said.dropout,
        "attn_dropout": said.dropatt,
        "tie_embedding": _are_tied(tensors, "out_layers.{}.weight", "emb_layers.{}.weight"),
        "tie_projections": _tied_projections(tensors, len(cutoffs) + 1, said.tie_projs or ()),
    }
    clamp_len = said.clamp_len or -1
    return ForeignConfig(
        model=_checked(model, ModelConfig, where),
        vocabulary_size=vocabulary_size,
        tgt_len=said.tgt_len or None,
        mem_len=said.mem_len or 0,
        clamp_len=clamp_len if clamp_len > 0 else None,
        same_length=bool(said.same_length),
    )


def _checked(values: Mapping[str, Any], model: type[_Model], where: str) -> _Model:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(strict.describe(error, model))
        raise InputError(f"{where}: its configuration cannot be used: {problems}") from None


def _need(values: Mapping[str, Any], name: str, where: str) -> int:
    value = values.get(name)
    if not isinstance(value, int):
        raise InputError(f"{where}: {name} should be a number, but is {shortened(value)}")
    return value


def _are_tied(tensors: Mapping[str, Tensor], output: str, embedding: str) -> bool:
    """Return whether the softmax's tensors equal the embedding's or are missing."""
    c = 0
    while (kept := tensors.get(f"{_EMBEDDING}.{embedding.format(c)}")) is not None:
        copy = tensors.get(f"{_SOFTMAX}.{output.format(c)}")
        if copy is not None and not (copy.shape == kept.shape and torch.equal(copy, kept)):
            return False
        c += 1
    return True


def _tied_projections(tensors: Mapping[str, Tensor], n_clusters: int, said: Sequence[bool]) -> str:
    """Return which of the softmax's projections are tied; for missing ones, `said` decides."""
    only = tensors.get(f"{_EMBEDDING}.emb_projs.0")
    if only is None:
        return "tails"  # there are none to tie
    tied = []
    for c in range(n_clusters):
        kept = tensors.get(f"{_EMBEDDING}.emb_projs.{c}", only)
        copy = tensors.get(f"{_SOFTMAX}.out_projs.{c}")
        if copy is None:
            tied.append(said[c] if c < len(said) else c > 0)
        else:
            tied.append(copy.shape == kept.shape and torch.equal(copy, kept))
    if all(tied):
        return "all"
    return "tails" if all(tied[1:]) and n_clusters > 1 else "none"


def _is_output_bias(name: str) -> bool:
    return name.startswith(f"{_SOFTMAX}.out_layers.") and name.endswith(".bias")
