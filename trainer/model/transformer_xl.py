"""Transformer-XL (Dai et al. 2019): relative attention over the segment and its memory.

Everything is in plain operations; what a device computes faster is behind `trainer.model.backend`.

B streams · T tgt_len · M mem_len · S = M+T · D d_model · L layers · V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.config.recipe import ModelConfig
from trainer.model.adaptive import AdaptiveEmbedding, AdaptiveSoftmax, LogProbs
from trainer.model.attention import PositionBiases, position_embedding
from trainer.model.backend import Backend
from trainer.model.choice import choose_backend
from trainer.model.dropout import dropout
from trainer.model.initialise import Fills, fills, initialise
from trainer.model.layer import Hidden, Layer, narrow, wide
from trainer.model.memory.inputs import LayerInputs, empty_memory, remember, resized
from trainer.model.memory.past import knows_positions, pasts
from trainer.model.memory.seen import Seen
from trainer.model.memory.written import (
    KeysAndValues,
    empty_keys_and_values,
    remember_written,
    with_room,
)
from trainer.model.token_tables import TokenTable, added, no_last, pair_rows
from trainer.protocol import Output, Segment, layered


class Left(NamedTuple):
    """The memory after a segment, and its further losses."""

    memory: Any
    extra: dict[str, Tensor] | None = None
    """Losses, see `trainer.protocol.Output`."""


class TransformerXL(nn.Module):
    """A `trainer.protocol.RecurrentModel`; its lengths are arguments of each call."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        """Build the model and initialise it from torch's global generator."""
        super().__init__()
        self.config = config
        self.embedding = AdaptiveEmbedding(config, vocabulary_size)
        shared = config.position_biases == "shared"
        self.biases = PositionBiases(config.n_head, config.d_head) if shared else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layer))
        self.softmax = AdaptiveSoftmax(config, self.embedding)
        self.n_words, width = vocabulary_size, config.d_model
        self.token_tables = nn.ModuleList(
            TokenTable(vocabulary_size, width) for _ in range(config.token_tables)
        )
        self.pairs = TokenTable(config.pair_rows, width) if config.pair_rows else None
        initialise(self, config, projections=self._projections())

    def fills(self) -> Fills:
        """Yield what fills this model, built on `meta`, with the values of one built elsewhere."""
        return fills(self, self.config, projections=self._projections())

    @property
    def is_static(self) -> bool:
        """Return whether a pass may be captured, see `trainer.protocol.RecurrentModel`.

        Where layers are computed again, the host asks for the generator's state.
        """
        return not self.config.activation_checkpointing

    def reach(self, mem_len: int, tgt_len: int) -> int | None:
        """Return how many segments back the top layer looks, see `trainer.protocol.Reach`.

        A pair of tokens looks one token farther.
        """
        return layered(self.config.n_layer)(mem_len, tgt_len) + (self.pairs is not None)

    def empty_memory(
        self, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
    ) -> LayerInputs:
        """Return memory of `n_streams` streams that have read nothing."""
        n_layer, width = self.config.n_layer, self.config.d_model
        memory = empty_memory(n_layer, n_streams, mem_len, width, dtype=dtype, device=device)
        return memory._replace(last=self._no_last(n_streams, device))

    def resized_memory(self, memory: LayerInputs, *, mem_len: int) -> LayerInputs:
        """Return memory of another length, see `trainer.protocol.RecurrentModel`."""
        return resized(memory, mem_len)

    def reading_memory(
        self, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
    ) -> KeysAndValues:
        """Return empty memory of keys and values, for reading with weights that do not change."""
        backend = choose_backend(self.config, torch.empty((), dtype=dtype, device=device))
        n_layer, n_head = self.config.n_layer, self.config.n_head
        sizes = (n_layer, n_streams, mem_len, n_head, backend.head_width(self.config.d_head))
        memory = empty_keys_and_values(*sizes, dtype=dtype, device=device)
        return memory._replace(last=self._no_last(n_streams, device))

    def _no_last(self, n_streams: int, device: torch.device) -> tuple[Tensor, ...]:
        return () if self.pairs is None else no_last(n_streams, self.n_words, device)

    def forward(
        self,
        segment: Segment,
        memory: LayerInputs | KeysAndValues,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
        attached: bool = False,
    ) -> Output:
        """Read a segment, predict its targets and update the memory."""
        return self._forward(segment, memory, clamp_len, same_length, attached=attached)[0]

    def forward_with_hidden(
        self,
        segment: Segment,
        memory: LayerInputs | KeysAndValues,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> tuple[Output, Tensor]:
        """Return what `forward` returns, and what `hidden` does, in one pass."""
        output, hidden_BTD = self._forward(segment, memory, clamp_len, same_length)
        return output, hidden_BTD.detach()[..., : self.config.d_model]

    def predict(
        self,
        segment: Segment,
        memory: LayerInputs | KeysAndValues,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> tuple[Tensor, LayerInputs | KeysAndValues]:
        """Return log-probabilities of the token after each, `[B, T, V]` in fp32 at least.

        The memory after the segment is the second result.
        """
        backend = choose_backend(self.config, memory.like)
        hidden_BTD, left = self._read(segment, memory, clamp_len, same_length, backend)
        log_probs_NV = self.softmax(hidden_BTD.flatten(0, 1), None, ())
        return log_probs_NV.view(*segment.tokens_BT.shape, -1), left.memory

    def predict_next(
        self,
        segment: Segment,
        memory: LayerInputs | KeysAndValues,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> tuple[LogProbs, LayerInputs | KeysAndValues]:
        """Read a segment; return the log-probabilities after each row's last token, and the memory.

        The words of a tail are computed when they are asked for.
        """
        backend = choose_backend(self.config, memory.like)
        hidden_BTD, left = self._read(segment, memory, clamp_len, same_length, backend)
        return self.softmax.log_probs(hidden_BTD[:, -1]), left.memory

    def hidden(
        self,
        segment: Segment,
        memory: LayerInputs | KeysAndValues,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> tuple[Tensor, LayerInputs | KeysAndValues]:
        """Read a segment; return what the softmax reads, `[B, T, D]`, and the memory."""
        backend = choose_backend(self.config, memory.like)
        hidden_BTD, left = self._read(segment, memory, clamp_len, same_length, backend)
        return hidden_BTD[..., : self.config.d_model], left.memory

    def words_after(self, hidden_ND: Tensor) -> LogProbs:
        """Return the log-probabilities of the words after hidden states, as `predict_next` does."""
        n_pads = self.softmax.n_columns - hidden_ND.shape[-1]
        return self.softmax.log_probs(F.pad(hidden_ND, (0, n_pads)))

    def _forward(
        self,
        segment: Segment,
        memory: Seen,
        clamp_len: int | None,
        same_length: bool,
        *,
        attached: bool = False,
    ) -> tuple[Output, Tensor]:
        """Return what `forward` returns, and what the softmax read."""
        backend = choose_backend(self.config, memory.like)
        lengths = (clamp_len, same_length)
        hidden_BTD, left = self._read(segment, memory, *lengths, backend, attached=attached)
        hidden_ND, targets_N = hidden_BTD.flatten(0, 1), segment.targets_BT.reshape(-1)
        how = (backend.nats, backend.filled, segment.filled)
        nll_N = self.softmax(hidden_ND, targets_N, segment.target_clusters, *how)
        nll_BT = nll_N.detach().view_as(segment.targets_BT)
        return Output(nll_N.sum(), nll_BT, left.memory, left.extra), hidden_BTD

    def _read(
        self,
        segment: Segment,
        memory: Seen,
        clamp_len: int | None,
        same_length: bool,
        backend: Backend,
        *,
        attached: bool = False,
    ) -> tuple[Tensor, Left]:
        """Return the hidden states after the last layer, `[B, T, D]`, and what is left."""
        if isinstance(memory, KeysAndValues):
            assert not self.training, "weights do not stay as they are"
            memory = with_room(memory, segment.tokens_BT.shape[1])
        x_BTD: Hidden = self._embedded(segment, memory, backend)
        n_keys, position_SD = memory.mem_len + segment.tokens_BT.shape[1], None
        if not knows_positions(memory, n_keys=n_keys):
            width = self.config.d_model
            position_SD = position_embedding(n_keys, width, clamp_len=clamp_len, like=memory.like)
            position_SD = self._dropped(position_SD)
        sight = self._sight(backend, memory, segment, same_length=same_length)
        biases = self.biases() if self.biases is not None else None
        inputs, positions = [], []
        for i, (layer, past) in enumerate(
            zip(self.layers, pasts(memory, position_SD), strict=True)
        ):
            if 0 < i <= len(self.token_tables):
                rows_BTD = self.token_tables[i - 1](segment.tokens_BT, backend.lookup)
                x_BTD = added(x_BTD, self._dropped(rows_BTD))
            if past.written is None:
                inputs.append(narrow(x_BTD))
            args = (x_BTD, past, sight, biases, backend.layer)
            if self.config.activation_checkpointing and self.training:
                x_BTD, r_SHE = checkpoint(layer, *args, use_reentrant=False)
            else:
                x_BTD, r_SHE = layer(*args)
            positions.append(r_SHE)
        hidden_BTD = self._dropped(wide(x_BTD)[..., : self.softmax.n_columns])
        if isinstance(memory, KeysAndValues):
            return hidden_BTD, Left(remember_written(memory, segment, positions))
        return hidden_BTD, self._left(memory, segment, inputs, attached=attached)

    def _embedded(self, segment: Segment, memory: Seen, backend: Backend) -> Hidden:
        """Return what the first layer reads, `[B, T, D]`."""
        how = (backend.lookup, segment.filled)
        x_BTD: Hidden = self.embedding(segment.tokens_BT, segment.token_clusters, *how)
        if self.pairs is not None:
            (last_B,) = memory.last
            n_rows = self.config.pair_rows
            rows_BT = pair_rows(segment, last_B, n_words=self.n_words, n_rows=n_rows)
            x_BTD = added(x_BTD, self.pairs(rows_BT, backend.lookup))
        return self._dropped(wide(x_BTD))

    def _sight(
        self, backend: Backend, memory: Seen, segment: Segment, *, same_length: bool
    ) -> Tensor | None:
        """Return which keys each query sees, as the back end's layers take it."""
        return backend.sight(memory, segment, same_length=same_length)

    def _left(
        self, memory: Any, segment: Segment, inputs: Sequence[Tensor], *, attached: bool
    ) -> Left:
        """Return what is left of the segment, given the layers' inputs, `[B, T, D]` each."""
        return Left(remember(memory, segment, inputs, attached=attached))

    def _projections(self) -> tuple[Tensor, ...]:
        return (*self.embedding.projections, *self.softmax.projections)

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.config.dropout, training=self.training)
