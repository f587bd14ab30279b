"""The configuration of Transformer-XL for transformers from 5.3 on: see `modeling_txl.py`.

Part of txl-trainer, under the MIT license.
"""

from itertools import pairwise
from typing import Any

from transformers import PretrainedConfig


class TxlConfig(PretrainedConfig):
    """The sizes of a model, and how it reads: tgt_len, mem_len, clamp_len, same_length."""

    model_type = "txl"
    keys_to_ignore_at_inference = ("past_key_values", "cache", "hidden_states")
    attribute_map = {  # noqa: RUF012 - transformers wants a dict
        "hidden_size": "d_model",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    def __init__(
        self,
        *,
        vocab_size: int = 1,
        n_layer: int = 1,
        d_model: int = 2,
        n_head: int = 1,
        d_head: int = 2,
        d_inner: int = 2,
        d_embed: int | None = None,
        cutoffs: tuple[int, ...] = (),
        div_val: int = 1,
        norm: str = "post",
        position_biases: str = "shared",
        tie_embedding: bool = True,
        tie_projections: str = "tails",
        token_tables: int = 0,
        pair_rows: int = 0,
        dropout: float = 0.0,
        attn_dropout: float = 0.0,
        init_std: float = 0.02,
        projection_init_std: float = 0.01,
        tgt_len: int = 1,
        mem_len: int = 1,
        clamp_len: int | None = None,
        same_length: bool = False,
        **others: Any,
    ) -> None:
        self.vocab_size, self.cutoffs, self.div_val = vocab_size, tuple(cutoffs), div_val
        self.n_layer, self.d_model, self.d_embed = n_layer, d_model, d_embed
        self.n_head, self.d_head, self.d_inner = n_head, d_head, d_inner
        self.norm, self.position_biases = norm, position_biases
        self.tie_embedding, self.tie_projections = tie_embedding, tie_projections
        self.token_tables, self.pair_rows = token_tables, pair_rows
        self.dropout, self.attn_dropout = dropout, attn_dropout
        self.init_std, self.projection_init_std = init_std, projection_init_std
        self.tgt_len, self.mem_len = tgt_len, mem_len
        self.clamp_len, self.same_length = clamp_len, same_length
        super().__init__(**{**others, "tie_word_embeddings": False})

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Return the first and the past-the-last id of every cluster of words, the head first."""
        return list(pairwise((0, *self.cutoffs, self.vocab_size)))

    @property
    def widths(self) -> list[int]:
        """Return the width of every cluster's table."""
        widest = self.d_embed or self.d_model
        return [widest // self.div_val**c for c in range(len(self.bounds))]
