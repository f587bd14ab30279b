"""The sizes that models of blocks have in common, and the model that is built of their mixers."""

from collections.abc import Sequence

from pydantic import BaseModel, Field
from torch import nn

from trainer.config.recipe import ModelConfig
from trainer.model.families.blocks import Blocks, Heads
from trainer.model.families.language_model import LanguageModel


class Sizes(BaseModel):
    """Sizes of a network of blocks, whose heads have a matrix each as their state."""

    d_model: int = Field(256, ge=1, description="width of the residual stream")
    n_layer: int = Field(4, ge=1, description="layers")
    n_head: int = Field(4, ge=1, description="heads, each with a matrix as its state")
    d_key: int = Field(32, ge=1, description="width of a head's keys: rows of its matrix")
    d_value: int = Field(64, ge=1, description="width of a head's values: columns of its matrix")
    d_inner: int = Field(688, ge=1, description="hidden width of the feed-forward layer")
    chunk_len: int = Field(
        64, ge=1, description="tokens read at once: more is faster, and takes its square of memory"
    )


def heads_of(sizes: Sizes) -> Heads:
    """Return a layer's queries, keys and values of these sizes."""
    return Heads(sizes.d_model, n_head=sizes.n_head, d_key=sizes.d_key, d_value=sizes.d_value)


def stacked(
    mixers: Sequence[nn.Module], config: ModelConfig, vocabulary_size: int, sizes: Sizes
) -> LanguageModel:
    """Return a language model of a block around each of the mixers."""
    body = Blocks(
        config,
        mixers,
        d_model=sizes.d_model,
        d_inner=sizes.d_inner,
        chunk_len=sizes.chunk_len,
    )
    return LanguageModel(config, vocabulary_size, width=sizes.d_model, body=body)
