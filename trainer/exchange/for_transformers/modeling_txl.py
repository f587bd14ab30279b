"""Transformer-XL (Dai et al. 2019) for transformers from 5.3 on.

`txl export --as transformers` copies this file and the three beside it, which need
only torch and transformers. Everything is in plain operations. Parameters have the names that
txl-trainer gives them. A parameter with two uses (a tied table) belongs to the embedding alone, so
nothing has to be tied after loading.

A text is read in segments of tgt_len tokens, counted from the first token of its row. A token sees
its segment up to itself and the mem_len tokens before the segment; with same_length, itself and the
mem_len - 1 tokens before. `generate` reads the prompt but its last token so; this token and each
that follows is a segment of its own. So a text has the same nats however it is cut into calls,
beside whatever other rows, and with any pads on its left.

B rows · T new tokens · S keys · H heads · E d_head · D d_model · V words.

Part of txl-trainer, under the MIT license.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_txl import TxlConfig
from .layers_txl import (
    AdaptiveEmbedding,
    AdaptiveSoftmax,
    PositionBiases,
    TokenTable,
    TxlLayer,
    hashed,
    position_embedding,
)
from .memory_txl import Sight, TxlMemory, most_kept

IGNORED = -100

#: The name of the memory in outputs and in `generate`; newer versions call it cache.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class TxlForCausalLM(PreTrainedModel, GenerationMixin):
    """Transformer-XL with its adaptive softmax; its logits are log-probabilities."""

    config_class = TxlConfig
    _no_split_modules = ("TxlLayer",)
    _is_stateful = True  # what the memory forgot does not come back, as assisted decoding needs it

    def __init__(self, config: TxlConfig) -> None:
        super().__init__(config)
        self.embedding = AdaptiveEmbedding(config)
        self.biases = PositionBiases(config) if config.position_biases == "shared" else None
        self.layers = nn.ModuleList(TxlLayer(config) for _ in range(config.n_layer))
        self.softmax = AdaptiveSoftmax(config, self.embedding)
        n_words, n_pairs = config.vocab_size, config.pair_rows
        self.token_tables = nn.ModuleList(
            TokenTable(n_words, config) for _ in range(config.token_tables)
        )
        self.pairs = TokenTable(n_pairs, config) if n_pairs else None
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int = 0,
        n_alone: int = 0,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Read tokens after those that the memory has; return log-probabilities of the next ones.

        Args:
            input_ids: the new tokens, `[B, T]`.
            attention_mask: `[B, T]`, or with the tokens read before in front. 0 marks pads: on the
                left of a text, or on the right of a text that does not go on.
            past_key_values: the memory that an earlier call returned, which goes on with this text.
            cache: the same by its newer name.
            labels: `[B, T]`, shifted here: the label of a token is compared with what the token
                before predicts. -100 is ignored; so is what has nothing but pads before it.
            use_cache: False returns no memory.
            output_hidden_states: whether to return the embedding and each layer's output.
            logits_to_keep: return logits after so many of the last tokens only; 0 means all.
            n_alone: so many of the last tokens are segments of their own, as `generate` reads them.
            num_items_in_batch: what the sum of nats is divided by, instead of the labels' number.
            return_dict: False returns a tuple.
            others: ignored, but `inputs_embeds` and `position_ids`, which are refused.
        """
        for name in ("inputs_embeds", "position_ids"):
            if others.get(name) is not None:
                raise ValueError(f"{name} is not for a TxlForCausalLM: pass input_ids")
        memory, n_new = _memory_of(cache, past_key_values), input_ids.shape[1]
        if memory is None:
            memory = TxlMemory(self.config.n_layer, projected=not torch.is_grad_enabled())
        goes_on = _take_in_mask(memory, attention_mask, n_new)
        # The tokenizer's pad follows the vocabulary; rows that have ended are filled up with it.
        input_ids = input_ids.masked_fill(input_ids == self.config.vocab_size, 0)
        of_layers = self._read_in_segments(input_ids, memory, n_alone)
        hidden_BTD = of_layers[-1]
        kept_BTD = hidden_BTD[:, -logits_to_keep:] if logits_to_keep else hidden_BTD
        logits = self.softmax(kept_BTD, self.embedding)
        loss = None
        if labels is not None:
            loss = _loss(logits, labels, memory, num_items_in_batch)
        kept = memory if goes_on and use_cache is not False else None
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=of_layers if output_hidden_states else None,
            **{CACHE: kept},
        )
        return output.to_tuple() if return_dict is False else output

    def _read_in_segments(
        self, tokens_BT: Tensor, memory: TxlMemory, n_alone: int
    ) -> tuple[Tensor, ...]:
        """Return the embedding and each layer's output, `[B, T, D]`; see `_read`."""
        n_new = tokens_BT.shape[1]
        states: list[list[Tensor]] = []
        begin = 0
        while begin < n_new:
            n_left = self.config.tgt_len - memory.n_read % self.config.tgt_len
            end = min(n_new, begin + n_left)
            alone = max(0, end - (n_new - n_alone))
            states.append(self._read(tokens_BT[:, begin:end], memory, alone))
            begin = end
        return tuple(torch.cat(parts, dim=1) for parts in zip(*states, strict=True))

    def _read(self, tokens_BT: Tensor, memory: TxlMemory, n_alone: int) -> list[Tensor]:
        """Read at most tgt_len tokens into memory; return what every layer reads, and the last's.

        The last `n_alone` tokens are segments of their own.
        """
        config, n_new = self.config, tokens_BT.shape[1]
        sight = Sight(memory, n_new, n_alone, config)
        hidden_BTS = sight.hidden_keys(tokens_BT.device)
        x_BTD = F.dropout(self._embedded(tokens_BT, memory), config.dropout, self.training)
        distances = self._distances(memory, sight.n_keys, x_BTD)
        states = [x_BTD]
        how = {"n_keys": sight.n_keys, "most": most_kept(config)}
        for i, (layer, r_SHE) in enumerate(zip(self._layers(), distances, strict=True)):
            if 0 < i <= len(self.token_tables):
                rows_BTD = self.token_tables[i - 1](tokens_BT)
                x_BTD = x_BTD + F.dropout(rows_BTD, config.dropout, self.training)
                states[i] = x_BTD
            attention = layer.attention
            if memory.projected:
                kv_BS2HE = memory.join(i, attention.keys_and_values(x_BTD), **how)
            else:
                kv_BS2HE = attention.keys_and_values(memory.join(i, x_BTD, **how))
            biases = attention.biases if self.biases is None else self.biases
            x_BTD = attention(x_BTD, kv_BS2HE, r_SHE, hidden_BTS, biases)
            x_BTD = layer.feed_forward(x_BTD)
            states.append(x_BTD)
        memory.n_read += n_new
        return [*states[:-1], F.dropout(states[-1], config.dropout, self.training)]

    def _embedded(self, tokens_BT: Tensor, memory: TxlMemory) -> Tensor:
        """Return what the first layer reads, `[B, T, D]`."""
        embedded_BTD: Tensor = self.embedding(tokens_BT)
        if self.pairs is None:
            return embedded_BTD
        before_BT = memory.before(tokens_BT, none=self.config.vocab_size)
        rows_BTD: Tensor = self.pairs(hashed(tokens_BT, before_BT) % self.config.pair_rows)
        return embedded_BTD + rows_BTD

    def _distances(self, memory: TxlMemory, n_keys: int, like: Tensor) -> list[Tensor]:
        """Return each layer's projection of the distances n_keys-1 … 0, `[n_keys, H, E]`."""
        keeps = memory.projected and not self.training and not torch.is_grad_enabled()
        known = memory.distances if keeps else []
        if not known or len(known[0]) < n_keys:
            # Twice as many as are needed now, so that a text that grows seldom asks for more.
            n = max(n_keys, min(2 * n_keys, most_kept(self.config) + 1)) if keeps else n_keys
            position_SD = position_embedding(n, self.config, like)
            position_SD = F.dropout(position_SD, self.config.dropout, self.training)
            heads = (self.config.n_head, -1)
            made = (layer.attention.position(position_SD) for layer in self._layers())
            known = [r_SX.unflatten(-1, heads) for r_SX in made]
        if keeps:
            memory.distances = known
        return [r_SHE[len(r_SHE) - n_keys :] for r_SHE in known]

    def _layers(self) -> list[TxlLayer]:
        return cast(list[TxlLayer], list(self.layers))

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 1,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the arguments of `forward` for the next token of every row."""
        if use_cache is False:
            raise ValueError("memory is the only cache of a TxlForCausalLM: leave use_cache on")
        if next_sequence_length is not None:
            if next_sequence_length < 1:
                raise ValueError("the memory has read all of input_ids: pass the text that goes on")
            input_ids = input_ids[:, -next_sequence_length:]
        return {
            "input_ids": input_ids.to(self.device),
            "attention_mask": attention_mask,
            CACHE: _memory_of(cache, past_key_values),
            "logits_to_keep": logits_to_keep,
            "n_alone": 1,
            "output_hidden_states": kwargs.get("output_hidden_states"),
        }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw the first values of a module's own parameters as txl-trainer does."""
        std = self.config.init_std
        if isinstance(module, nn.LayerNorm):
            init.normal_(module.weight, 1.0, std)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, TokenTable):
            init.zeros_(module.weight)
        elif isinstance(module, PositionBiases):
            init.normal_(module.content_HE, 0.0, std)
            init.normal_(module.position_HE, 0.0, std)
        elif isinstance(module, AdaptiveSoftmax) and len(self.config.bounds) > 1:
            init.normal_(module.cluster_weight, 0.0, std)
            init.zeros_(module.cluster_bias)
        elif isinstance(module, nn.ParameterList):  # of the embedding or the softmax
            is_projection = module in (self.embedding.projections, self.softmax.projections)
            own = self.config.projection_init_std if is_projection else std
            for parameter in module:
                if module is self.softmax.biases:
                    init.zeros_(parameter)
                else:
                    init.normal_(parameter, 0.0, own)


def _memory_of(cache: Cache | None, past_key_values: Cache | None) -> TxlMemory | None:
    """Return the memory given by either name; None for an empty cache of another kind.

    Some versions of `generate` begin with such a cache.
    """
    given = cache if cache is not None else past_key_values
    if given is None or isinstance(given, TxlMemory):
        return given
    if isinstance(given, Cache) and given.get_seq_length() == 0:
        return None
    raise ValueError(
        f"the cache of a TxlForCausalLM is a TxlMemory, not a {type(given).__name__}: pass the "
        f"past_key_values that an earlier call returned"
    )


def _take_in_mask(memory: TxlMemory, mask: Tensor | None, n_new: int) -> bool:
    """Note the pads on the left of new texts; return whether the texts can go on afterwards."""
    if mask is None:
        return True
    if mask.dim() != 2:
        raise ValueError(f"attention_mask is {list(mask.shape)}: it should be [rows, tokens]")
    real_BT = mask[:, -n_new:].bool()
    column_T = torch.arange(n_new, device=mask.device)
    pads_B = n_new - real_BT.sum(dim=1)
    if not pads_B.any():
        return True
    if memory.n_read == 0 and torch.equal(real_BT, column_T >= pads_B[:, None]):
        memory.pads_B = pads_B
        return True
    if torch.equal(real_BT, column_T < n_new - pads_B[:, None]):
        return False
    raise ValueError(
        "attention_mask hides tokens inside a text: it may hide pads on the left of the rows where "
        "they begin, or on their right"
    )


def _loss(
    logits_BTV: Tensor, labels_BT: Tensor, memory: TxlMemory, n_items: Tensor | int | None
) -> Tensor:
    """Return the mean nats of the labels, each under the logits one token before it."""
    labels_BT = labels_BT[:, -logits_BTV.shape[1] :]
    if memory.pads_B is not None:
        first = memory.n_read - labels_BT.shape[1]
        token_T = torch.arange(first, memory.n_read, device=labels_BT.device)
        labels_BT = labels_BT.masked_fill(token_T <= memory.pads_B[:, None], IGNORED)
    told, wanted = logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten()
    nats = F.nll_loss(told, wanted, ignore_index=IGNORED, reduction="sum")
    return nats / ((wanted != IGNORED).sum() if n_items is None else n_items)
