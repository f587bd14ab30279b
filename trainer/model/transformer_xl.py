"""Transformer-XL (Dai et al. 2019): relative attention over the segment and its memory.

B streams · T tgt_len · M mem_len · S = M+T · D d_model · L layers · V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.config.recipe import ModelConfig
from trainer.model.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from trainer.model.attention import Past, PositionBiases, RelativeAttention, position_embedding
from trainer.model.dropout import dropout
from trainer.model.feed_forward import FeedForward
from trainer.model.kernels import Kernels, choose_kernels
from trainer.model.memory import (
    KeysAndValues,
    LayerInputs,
    empty_memory,
    hidden_keys,
    remember,
    visible_from,
)
from trainer.model.tied_embedding import Handoff
from trainer.model.triton.alignment import aligned, stored
from trainer.protocol import Output, Segment


class Layer(nn.Module):
    """Attention, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        pre_norm = config.norm == "pre"
        self.attention = RelativeAttention(
            d_model=config.d_model,
            n_head=config.n_head,
            d_head=config.d_head,
            dropout=config.dropout,
            attn_dropout=config.attn_dropout,
            pre_norm=pre_norm,
            own_biases=config.position_biases == "per_layer",
        )
        self.feed_forward = FeedForward(
            d_model=config.d_model,
            d_inner=config.d_inner,
            dropout=config.dropout,
            pre_norm=pre_norm,
        )

    def forward(
        self,
        x_BTD: Tensor,
        past: Past,
        sight: Tensor | None,
        shared_biases: tuple[Tensor, Tensor] | None,
        seeds_4: Tensor | None,
        kernels: Kernels,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The segment one layer on, `[B, T, D]`; and as `RelativeAttention`.

        Triton's kernels take aligned rows, seeds of their own, and for `sight` the first key that
        each query sees; the others take the hidden keys.
        """
        if kernels is Kernels.TRITON:
            from trainer.model.triton.layers import fused_layer  # needs what not all machines have

            assert seeds_4 is not None
            return fused_layer(
                self.attention,
                self.feed_forward,
                x_BTD,
                past,
                visible_from_BT=sight,
                shared_biases=shared_biases,
                seeds_4=seeds_4,
            )
        x_BTD, projected = self.attention(x_BTD, past, sight, shared_biases, kernels)
        return self.feed_forward(x_BTD), projected


class TransformerXL(nn.Module):
    """A `trainer.protocol.RecurrentModel`; its lengths are call arguments, not frozen in."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        """Build and initialise from torch's global generator."""
        super().__init__()
        self.config = config
        self.embedding = AdaptiveEmbedding(config, vocabulary_size)
        shared = config.position_biases == "shared"
        self.biases = PositionBiases(config.n_head, config.d_head) if shared else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layer))
        self.softmax = AdaptiveSoftmax(config, self.embedding)
        initialise(self, config)

    def empty_memory(
        self, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
    ) -> LayerInputs:
        """Return memory of `n_streams` streams that have read nothing."""
        return empty_memory(
            self.config.n_layer, n_streams, mem_len, self.config.d_model, dtype=dtype, device=device
        )

    def reading_memory(
        self, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
    ) -> KeysAndValues:
        """Return the same of keys and values, which stay as they are as long as the weights do."""
        like = torch.empty((), dtype=dtype, device=device)
        fused = choose_kernels(self.config.kernels, like) is Kernels.TRITON
        d_head = stored(self.config.d_head) if fused else self.config.d_head
        width = 2 * self.config.n_head * d_head
        empty = empty_memory(
            self.config.n_layer, n_streams, mem_len, width, dtype=dtype, device=device
        )
        return KeysAndValues(empty.layers, (), empty.valid_B, empty.valid_min)

    def forward(
        self,
        segment: Segment,
        memory: LayerInputs | KeysAndValues,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> Output:
        """Read a segment, predict its targets and update the memory."""
        kernels = choose_kernels(self.config.kernels, memory.layers[0])
        handoff = self._handoff(kernels, memory.layers[0].dtype)
        hidden_BTD, memory = self._read(segment, memory, clamp_len, same_length, kernels, handoff)
        nll_N = self.softmax(
            hidden_BTD.flatten(0, 1),
            segment.targets_BT.reshape(-1),
            segment.target_clusters,
            handoff,
        )
        return Output(nll_N.sum(), nll_N.detach().view_as(segment.targets_BT), memory)

    def predict(
        self,
        segment: Segment,
        memory: LayerInputs | KeysAndValues,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> tuple[Tensor, LayerInputs | KeysAndValues]:
        """Log-probabilities `[B, T, V]`, fp32 at least, of the token after each, and the memory."""
        kernels = choose_kernels(self.config.kernels, memory.layers[0])
        hidden_BTD, memory = self._read(segment, memory, clamp_len, same_length, kernels, None)
        log_probs_NV = self.softmax(hidden_BTD.flatten(0, 1), None, ())
        return log_probs_NV.view(*segment.tokens_BT.shape, -1), memory

    def _handoff(self, kernels: Kernels, dtype: torch.dtype) -> Handoff | None:
        """Given where the softmax has a fast path; see `trainer.model.tied_embedding`.

        The CPU's has probabilities that would be too coarse in fp16.
        """
        if kernels is Kernels.PLAIN or (kernels is Kernels.CPU and dtype == torch.float16):
            return None
        return Handoff(kernels, is_tied=self.config.tie_embedding)

    def _read(
        self,
        segment: Segment,
        memory: LayerInputs | KeysAndValues,
        clamp_len: int | None,
        same_length: bool,
        kernels: Kernels,
        handoff: Handoff | None,
    ) -> tuple[Tensor, LayerInputs | KeysAndValues]:
        is_projected = isinstance(memory, KeysAndValues)
        assert not (is_projected and self.training), "weights do not stay as they are"
        width, probability = self.config.d_model, self.config.dropout
        x_BTD = self.embedding(segment.tokens_BT, segment.token_clusters, handoff)
        x_BTD = dropout(x_BTD, probability, training=self.training)
        pasts = self._pasts(memory, x_BTD, clamp_len, kernels)
        sight: Tensor | None
        if kernels is Kernels.TRITON:
            x_BTD = aligned(x_BTD)
            sight = visible_from(memory, segment, same_length=same_length)
        else:
            sight = hidden_keys(memory, segment, same_length=same_length)
        seeds_L4 = self._seeds(x_BTD.device, kernels)
        biases = self.biases() if self.biases is not None else None
        remembered, positions = [], []
        for layer, past, seeds_4 in zip(self.layers, pasts, seeds_L4, strict=True):
            args = (x_BTD, past, sight, biases, seeds_4, kernels)
            remembered.append(x_BTD[..., :width])
            if self.config.activation_checkpointing and self.training:
                x_BTD, projected = checkpoint(layer, *args, use_reentrant=False)
            else:
                x_BTD, projected = layer(*args)
            if projected is not None:
                remembered[-1], r_SX = projected
                positions.append(r_SX)
        x_BTD = dropout(x_BTD[..., :width], probability, training=self.training)
        memory = remember(memory, segment, remembered)
        if isinstance(memory, KeysAndValues):
            memory = memory._replace(positions=tuple(positions))
        return x_BTD, memory

    def _pasts(
        self,
        memory: LayerInputs | KeysAndValues,
        x_BTD: Tensor,
        clamp_len: int | None,
        kernels: Kernels,
    ) -> list[Past]:
        """Per layer, what it attends to beside the segment."""
        layers, is_projected = memory.layers, isinstance(memory, KeysAndValues)
        n_keys = layers[0].shape[1] + x_BTD.shape[1]
        known = memory.positions if isinstance(memory, KeysAndValues) else ()
        if known and len(known[0]) == n_keys:
            pairs = zip(layers, known, strict=True)
            return [Past(rows_BMX, True, None, r_SX) for rows_BMX, r_SX in pairs]
        position_SD = position_embedding(
            n_keys,
            self.config.d_model,
            clamp_len=clamp_len,
            dtype=layers[0].dtype,
            device=x_BTD.device,
        )
        position_SD = dropout(position_SD, self.config.dropout, training=self.training)
        if kernels is Kernels.TRITON:
            position_SD = aligned(aligned(position_SD), dim=0)
            layers = tuple(map(aligned, layers))
        return [Past(rows_BMX, is_projected, position_SD) for rows_BMX in layers]

    def _seeds(self, device: torch.device, kernels: Kernels) -> Sequence[Tensor | None]:
        """Per layer those of its places of dropout, for kernels that do not draw themselves."""
        if kernels is not Kernels.TRITON:
            return [None] * self.config.n_layer
        shape = (self.config.n_layer, 4)
        if not self.training:
            return list(torch.zeros(shape, dtype=torch.int64, device=device))
        return list(torch.randint(2**62, shape, device=device))


@torch.no_grad()
def initialise(model: TransformerXL, config: ModelConfig) -> None:
    """The paper's initialisation: normal weights, zero biases, LayerNorm around one."""
    projections = {id(p) for p in (*model.embedding.projections, *model.softmax.projections)}
    norms = {id(m.weight) for m in model.modules() if isinstance(m, nn.LayerNorm)}
    for name, parameter in model.named_parameters():
        if id(parameter) in norms:
            parameter.normal_(1.0, config.init_std)
        elif id(parameter) in projections:
            parameter.normal_(0.0, config.projection_init_std)
        elif parameter.dim() == 1 or name.endswith("bias"):
            parameter.zero_()
        else:
            parameter.normal_(0.0, config.init_std)
