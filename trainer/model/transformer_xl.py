"""Transformer-XL (Dai et al. 2019): relative attention over the segment and its memory.

B streams · T tgt_len · M mem_len · S = M+T · D d_model · L layers · V vocabulary.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.config import ModelConfig
from trainer.model.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from trainer.model.attention import PositionBiases, RelativeAttention, position_embedding
from trainer.model.dropout import dropout, relu_dropout
from trainer.model.kernels import Kernels, choose_kernels
from trainer.model.linear_nll import Handoff
from trainer.model.memory import empty_memory, hidden_keys, remember
from trainer.protocol import Memory, Output, Segment


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
        self, x_BTD: Tensor, memory_BMD: Tensor, position_SD: Tensor, hidden: Tensor,
        shared_biases: tuple[Tensor, Tensor] | None, kernels: Kernels,
    ) -> Tensor:  # fmt: skip
        """The segment one layer on, `[B, T, D]`."""
        x_BTD = self.attention(x_BTD, memory_BMD, position_SD, hidden, shared_biases, kernels)
        return cast(Tensor, self.feed_forward(x_BTD))


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
    ) -> Memory:
        """Memory of `n_streams` streams that have read nothing."""
        return empty_memory(
            self.config.n_layer, n_streams, mem_len, self.config.d_model, dtype=dtype, device=device
        )

    def forward(
        self, segment: Segment, memory: Memory, *,
        clamp_len: int | None = None, same_length: bool = False,
    ) -> Output:  # fmt: skip
        """Read a segment, predict its targets and update the memory."""
        handoff = self._handoff(memory)
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

    def _handoff(self, memory: Memory) -> Handoff | None:
        """Given where the fast path is taken; see `trainer.model.linear_nll`.

        In fp16 its probabilities would be too coarse, and on a GPU its blocks of rows too many.
        """
        kernels = choose_kernels(self.config.kernels, memory.hidden_LBMD)
        fits = memory.hidden_LBMD.dtype != torch.float16
        return Handoff() if fits and kernels is Kernels.CPU else None

    def _read(
        self, segment: Segment, memory: Memory, clamp_len: int | None, same_length: bool,
        handoff: Handoff | None,
    ) -> tuple[Tensor, Memory]:  # fmt: skip
        probability = self.config.dropout
        x_BTD = self.embedding(segment.tokens_BT, segment.token_clusters, handoff)
        x_BTD = dropout(x_BTD, probability, training=self.training)
        n_keys = memory.hidden_LBMD.shape[2] + x_BTD.shape[1]
        position_SD = position_embedding(
            n_keys, self.config.d_model, clamp_len=clamp_len, dtype=memory.hidden_LBMD.dtype,
            device=x_BTD.device,
        )  # fmt: skip
        position_SD = dropout(position_SD, probability, training=self.training)
        hidden = hidden_keys(memory, segment, same_length=same_length)
        kernels = choose_kernels(self.config.kernels, memory.hidden_LBMD)
        biases = self.biases() if self.biases is not None else None
        inputs_LBTD = []
        for layer, memory_BMD in zip(self.layers, memory.hidden_LBMD, strict=True):
            inputs_LBTD.append(x_BTD)
            args = (x_BTD, memory_BMD, position_SD, hidden, biases, kernels)
            if self.config.activation_checkpointing and self.training:
                x_BTD = checkpoint(layer, *args, use_reentrant=False)
            else:
                x_BTD = layer(*args)
        x_BTD = dropout(x_BTD, probability, training=self.training)
        return x_BTD, remember(memory, segment, inputs_LBTD)


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
