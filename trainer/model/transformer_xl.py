"""Transformer-XL (Dai et al. 2019): relative attention over the segment and its memory.

B streams · T tgt_len · M mem_len · S = M+T · D d_model · L layers · V vocabulary.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.config import ModelConfig
from trainer.model.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from trainer.model.attention import Past, PositionBiases, RelativeAttention, position_embedding
from trainer.model.dropout import dropout, relu_dropout
from trainer.model.kernels import Kernels, choose_kernels
from trainer.model.linear_nll import Handoff
from trainer.model.memory import empty_memory, hidden_keys, remember
from trainer.protocol import Memory, Output, Segment
from trainer.reduction import TiedSums


class FeedForward(nn.Module):
    """Two linear layers around a ReLU, with their residual connection and LayerNorm."""

    def __init__(self, *, d_model: int, d_inner: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.dropout, self.pre_norm = dropout, pre_norm
        self.inner = nn.Linear(d_model, d_inner)
        self.outer = nn.Linear(d_inner, d_model)
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """`[B, T, D]` to `[B, T, D]`."""
        inner_BTF = self.inner(self.norm(x_BTD) if self.pre_norm else x_BTD)
        inner_BTF = relu_dropout(inner_BTF, self.dropout, training=self.training)
        out_BTD = x_BTD + dropout(self.outer(inner_BTF), self.dropout, training=self.training)
        return out_BTD if self.pre_norm else cast(Tensor, self.norm(out_BTD))


class Layer(nn.Module):
    """Attention, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        pre_norm = config.norm == "pre"
        self.attention = RelativeAttention(
            d_model=config.d_model, n_head=config.n_head, d_head=config.d_head,
            dropout=config.dropout, attn_dropout=config.attn_dropout, pre_norm=pre_norm,
            own_biases=config.position_biases == "per_layer",
        )  # fmt: skip
        self.feed_forward = FeedForward(
            d_model=config.d_model, d_inner=config.d_inner, dropout=config.dropout,
            pre_norm=pre_norm,
        )  # fmt: skip

    def forward(
        self, x_BTD: Tensor, past: Past, hidden: Tensor,
        shared_biases: tuple[Tensor, Tensor] | None, kernels: Kernels,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:  # fmt: skip
        """The segment one layer on, `[B, T, D]`; and as `RelativeAttention`."""
        x_BTD, projected = self.attention(x_BTD, past, hidden, shared_biases, kernels)
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
        self.tied_sums: TiedSums | None = None
        """Where the gradients of tied tables go, if an engine of several ranks takes them."""
        initialise(self, config)

    def empty_memory(
        self, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
    ) -> Memory:
        """Memory of `n_streams` streams that have read nothing."""
        return empty_memory(
            self.config.n_layer, n_streams, mem_len, self.config.d_model, dtype=dtype, device=device
        )

    def reading_memory(
        self, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
    ) -> Memory:
        """The same of keys and values, which stay as they are as long as the weights do.

        One memory is read on with the same `clamp_len`.
        """
        width = 2 * self.config.n_head * self.config.d_head
        memory = empty_memory(
            self.config.n_layer, n_streams, mem_len, width, dtype=dtype, device=device
        )
        return memory._replace(is_projected=True)

    def forward(
        self, segment: Segment, memory: Memory, *,
        clamp_len: int | None = None, same_length: bool = False,
    ) -> Output:  # fmt: skip
        """Read a segment, predict its targets and update the memory."""
        handoff = self._handoff(memory, n_tokens=segment.tokens_BT.numel())
        hidden_BTD, memory = self._read(segment, memory, clamp_len, same_length, handoff)
        nll_N = self.softmax(
            hidden_BTD.flatten(0, 1), segment.targets_BT.reshape(-1), segment.target_clusters,
            handoff,
        )  # fmt: skip
        return Output(nll_N.sum(), nll_N.detach().view_as(segment.targets_BT), memory)

    def predict(
        self, segment: Segment, memory: Memory, *,
        clamp_len: int | None = None, same_length: bool = False,
    ) -> tuple[Tensor, Memory]:  # fmt: skip
        """Log-probabilities `[B, T, V]`, fp32 at least, of the token after each, and the memory."""
        hidden_BTD, memory = self._read(segment, memory, clamp_len, same_length, None)
        log_probs_NV = self.softmax(hidden_BTD.flatten(0, 1), None, ())
        return log_probs_NV.view(*segment.tokens_BT.shape, -1), memory

    def _handoff(self, memory: Memory, *, n_tokens: int) -> Handoff | None:
        """Given where the fast path is taken; see `trainer.model.linear_nll`.

        In fp16 its probabilities would be too coarse, and on a GPU its blocks of rows too many.
        """
        kernels = choose_kernels(self.config.kernels, memory.hidden_LBMD)
        fits = memory.hidden_LBMD.dtype != torch.float16
        if not fits or kernels is not Kernels.CPU:
            return None
        return Handoff(self.tied_sums, n_tokens=n_tokens)

    def _read(
        self, segment: Segment, memory: Memory, clamp_len: int | None, same_length: bool,
        handoff: Handoff | None,
    ) -> tuple[Tensor, Memory]:  # fmt: skip
        assert not (memory.is_projected and self.training), "weights do not stay as they are"
        probability = self.config.dropout
        x_BTD = self.embedding(segment.tokens_BT, segment.token_clusters, handoff)
        x_BTD = dropout(x_BTD, probability, training=self.training)
        hidden = hidden_keys(memory, segment, same_length=same_length)
        kernels = choose_kernels(self.config.kernels, memory.hidden_LBMD)
        biases = self.biases() if self.biases is not None else None
        remembered, positions = [], []
        for layer, past in zip(self.layers, self._pasts(memory, x_BTD, clamp_len), strict=True):
            args = (x_BTD, past, hidden, biases, kernels)
            remembered.append(x_BTD)
            if self.config.activation_checkpointing and self.training:
                x_BTD, projected = checkpoint(layer, *args, use_reentrant=False)
            else:
                x_BTD, projected = layer(*args)
            if projected is not None:
                remembered[-1], r_SX = projected
                positions.append(r_SX)
        x_BTD = dropout(x_BTD, probability, training=self.training)
        memory = remember(memory, segment, remembered)
        if positions:
            memory = memory._replace(position_LSX=torch.stack(positions))
        return x_BTD, memory

    def _pasts(self, memory: Memory, x_BTD: Tensor, clamp_len: int | None) -> list[Past]:
        """Per layer, what it attends to beside the segment."""
        n_keys = memory.hidden_LBMD.shape[2] + x_BTD.shape[1]
        known_LSX = memory.position_LSX
        if known_LSX is not None and known_LSX.shape[1] == n_keys:
            pairs = zip(memory.hidden_LBMD, known_LSX, strict=True)
            return [Past(rows_BMX, True, None, r_SX) for rows_BMX, r_SX in pairs]
        position_SD = position_embedding(
            n_keys, self.config.d_model, clamp_len=clamp_len, dtype=memory.hidden_LBMD.dtype,
            device=x_BTD.device,
        )  # fmt: skip
        position_SD = dropout(position_SD, self.config.dropout, training=self.training)
        rows = memory.hidden_LBMD
        return [Past(rows_BMX, memory.is_projected, position_SD) for rows_BMX in rows]


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
