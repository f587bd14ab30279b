"""Causal models of Hugging Face's transformers, with new weights or read from a folder."""

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field

from trainer.config.recipe import ModelConfig
from trainer.errors import InputError, did_you_mean
from trainer.optional import optional
from trainer.outside import shortened

#: Names of the hidden width of a feed-forward layer in transformers' configurations.
_INNER = ("intermediate_size", "n_inner", "ffn_dim")
_DROPOUTS = ("dropout", "hidden_dropout", "hidden_dropout_prob", "resid_pdrop")
_ATTENTION_DROPOUTS = ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop")


class Sizes(BaseModel):
    """The options that say which model; all but `pretrained` are for new weights alone."""

    pretrained: str | None = Field(
        None,
        description="a folder of a model of transformers, or its name on the Hugging Face Hub, to "
        "begin from; None begins with new weights, and the sizes below",
    )
    architecture: str = Field("llama", description="type of the model, as transformers calls it")
    d_model: int = Field(256, ge=1, description="width of the residual stream")
    n_layer: int = Field(4, ge=1, description="layers")
    n_head: int = Field(4, ge=1, description="attention heads")
    d_inner: int | None = Field(
        None, ge=1, description="hidden width of the feed-forward layer; None is 4 d_model"
    )
    n_positions: int = Field(2048, ge=1, description="positions that the model is made for")


def causal_model(config: ModelConfig, vocabulary_size: int, sizes: Sizes) -> Any:
    """Return a model of transformers over a vocabulary, in fp32.

    No code runs that a folder or the Hub brings, and none is unpickled. The network is asked only
    for what is no folder here.

    Raises:
        InputError: transformers is not installed, or has no such model.
    """
    transformers = optional("transformers", extra="hf", does="build a model of Hugging Face's")
    auto = transformers.AutoModelForCausalLM
    if sizes.pretrained is None:
        model = auto.from_config(_configured(config, vocabulary_size, sizes), dtype=torch.float32)
    else:
        model = _pretrained(sizes.pretrained, auto, transformers.AutoConfig)
        model.resize_token_embeddings(vocabulary_size, mean_resizing=False)
    if config.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _pretrained(name: str, auto: Any, auto_config: Any) -> Any:
    where = {"local_files_only": Path(name).is_dir(), "trust_remote_code": False}
    try:
        if torch.get_default_device().type == "meta":  # where no weights are read
            found = auto_config.from_pretrained(name, **where)
            return auto.from_config(found, dtype=torch.float32, trust_remote_code=False)
        return auto.from_pretrained(name, dtype=torch.float32, use_safetensors=True, **where)
    except (OSError, ValueError) as error:  # no such folder or name, or no causal model
        told = " ".join(str(error).split())
        raise InputError(f"model.options.pretrained {shortened(name)}: {told}") from None


def _configured(config: ModelConfig, vocabulary_size: int, sizes: Sizes) -> Any:
    """Return transformers' configuration of a model of these sizes."""
    auto = optional("transformers.models.auto", extra="hf", does="build a model of Hugging Face's")
    kinds, name = auto.CONFIG_MAPPING, sizes.architecture
    if name not in kinds or kinds[name] not in auto.MODEL_FOR_CAUSAL_LM_MAPPING:
        near = did_you_mean(name, list(kinds))
        raise InputError(
            f"model.options.architecture: transformers has no causal model {shortened(name)}{near}"
        )
    usual = kinds[name]()
    inner = next((field for field in _INNER if hasattr(usual, field)), _INNER[0])
    needed = {
        "vocab_size": vocabulary_size,
        "hidden_size": sizes.d_model,
        "num_hidden_layers": sizes.n_layer,
        "num_attention_heads": sizes.n_head,
        inner: sizes.d_inner or 4 * sizes.d_model,
    }
    lacking = [field for field in needed if not hasattr(usual, field)]
    if lacking:
        raise InputError(
            f"model.options.architecture {shortened(name)} has no {', '.join(lacking)}: use another"
        )
    known = {
        "is_decoder": True,  # or a model such as BERT sees what follows
        "num_key_value_heads": sizes.n_head,
        "head_dim": sizes.d_model // sizes.n_head,
        "max_position_embeddings": sizes.n_positions,
        **dict.fromkeys(_DROPOUTS, config.dropout),
        **dict.fromkeys(_ATTENTION_DROPOUTS, config.attn_dropout),
        "embd_pdrop": 0.0,  # the embeddings' dropout is ours
        "tie_word_embeddings": config.tie_embedding,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    return kinds[name](**{k: v for k, v in known.items() if hasattr(usual, k)} | needed)
