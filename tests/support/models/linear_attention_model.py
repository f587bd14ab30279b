"""A model for the tests of memory of any shape: gated linear attention with two kinds of state.

B streams · T tgt_len · H heads · E d_head · D d_model.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.recipe import ModelConfig
from trainer.memory_tree import detached
from trainer.protocol import IGNORED, Output, Segment


class State(NamedTuple):
    """State that a stream carries."""

    matrix: Tensor
    """Sums of keys times values, `[B, L, H, E, E]`, in fp32 whatever the rest is computed in."""
    shift: tuple[Tensor, ...]
    """Each layer's last input, `[B, D]`, in the compute dtype."""


class Layer(nn.Module):
    """Linear attention with a gate and a token shift, added to its input."""

    def __init__(self, d_model: int, n_head: int, d_head: int) -> None:
        super().__init__()
        self.heads = (n_head, d_head)
        self.qkv = nn.Linear(d_model, 3 * n_head * d_head)
        self.gate = nn.Linear(d_model, n_head)
        self.out = nn.Linear(n_head * d_head, d_model)

    def forward(
        self, x_BTD: Tensor, matrix_BHEE: Tensor, shift_BD: Tensor, is_read_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the layer's output and its matrix after the segment; padding changes nothing."""
        before_BTD = torch.cat([shift_BD[:, None].to(x_BTD.dtype), x_BTD[:, :-1]], dim=1)
        mixed_BTD = (x_BTD + before_BTD) / 2
        q, k, v = self.qkv(mixed_BTD).float().unflatten(-1, (3, *self.heads)).unbind(2)
        gate_BTH11 = self.gate(mixed_BTD).float().sigmoid()[..., None, None]
        read = []
        for t in range(x_BTD.shape[1]):
            update = gate_BTH11[:, t] * matrix_BHEE + k[:, t, :, :, None] * v[:, t, :, None, :]
            is_read = is_read_BT[:, t, None, None, None]
            matrix_BHEE = torch.where(is_read, update, matrix_BHEE)
            read.append((q[:, t, :, None, :] @ matrix_BHEE)[:, :, 0])
        heads_BTX = torch.stack(read, dim=1).flatten(2).to(x_BTD.dtype)
        return x_BTD + F.rms_norm(self.out(heads_BTX), x_BTD.shape[-1:]), matrix_BHEE


class LinearAttention(nn.Module):
    """A `trainer.protocol.RecurrentModel`."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary_size, config.d_model)
        sizes = (config.d_model, config.n_head, config.d_head)
        self.layers = nn.ModuleList(Layer(*sizes) for _ in range(config.n_layer))
        self.softmax = nn.Linear(config.d_model, vocabulary_size)

    def empty_memory(
        self, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
    ) -> State:
        """Return the state of streams that have read nothing."""
        size = self.config
        shape = (n_streams, size.n_layer, size.n_head, size.d_head, size.d_head)
        shift = [torch.zeros(n_streams, size.d_model, dtype=dtype, device=device)] * size.n_layer
        return State(
            torch.zeros(shape, dtype=torch.float32, device=device), tuple(x.clone() for x in shift)
        )

    def forward(
        self, segment: Segment, memory: State, *, attached: bool = False, **_: object
    ) -> Output:
        """Read a segment; see the protocol."""
        logits_BTV, memory = self._read(segment, memory)
        memory = memory if attached else detached(memory)
        nll_BT = F.cross_entropy(
            logits_BTV.mT, segment.targets_BT, ignore_index=IGNORED, reduction="none"
        )
        return Output(nll_BT.sum(), nll_BT.detach(), memory)

    def predict(self, segment: Segment, memory: State, **_: object) -> tuple[Tensor, State]:
        """Return log-probabilities of the token after each."""
        logits_BTV, memory = self._read(segment, memory)
        return logits_BTV.log_softmax(dim=-1), memory

    def _read(self, segment: Segment, memory: State) -> tuple[Tensor, State]:
        x_BTD = self.embedding(segment.tokens_BT)
        tgt_len = x_BTD.shape[1]
        is_read_BT = torch.arange(tgt_len, device=x_BTD.device) < segment.lengths_B[:, None]
        last_B1D = (segment.lengths_B - 1).clamp_min(0)[:, None, None].expand(-1, 1, x_BTD.shape[2])
        matrices, shifts = [], []
        for i, layer in enumerate(self.layers):
            last_BD = x_BTD.gather(1, last_B1D)[:, 0].to(memory.shift[i].dtype)
            shifts.append(torch.where(is_read_BT[:, :1], last_BD, memory.shift[i]))
            x_BTD, matrix = layer(x_BTD, memory.matrix[:, i], memory.shift[i], is_read_BT)
            matrices.append(matrix)
        logits_BTV = self.softmax(x_BTD).float()
        return logits_BTV, State(torch.stack(matrices, dim=1), tuple(shifts))


def build(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory linear_attention_model:build`."""
    return LinearAttention(config, vocabulary_size)


class Misbehaved(LinearAttention):
    """A model that hands back, of its matrix, what its `n_layer` says it should not."""

    def forward(self, segment: Segment, memory: State, **_: object) -> Output:
        """Compute as the parent does, but for the memory."""
        output = super().forward(segment, memory)
        after: State = output.memory
        wrong = {
            1: after.matrix + 0 * self.gate_of_first(),
            2: memory.matrix.copy_(after.matrix),
            3: after.matrix.transpose(0, 1),
        }[self.config.n_layer]
        return output._replace(memory=after._replace(matrix=wrong))

    def gate_of_first(self) -> Tensor:
        """Return a number that needs a gradient."""
        first = self.layers[0]
        assert isinstance(first, Layer)
        return first.gate.bias.sum()


def build_misbehaved(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory linear_attention_model:build_misbehaved`."""
    return Misbehaved(config, vocabulary_size)


class Detaching(LinearAttention):
    """A model that takes `attached` for one more length, and detaches its memory."""

    def forward(self, segment: Segment, memory: State, **lengths: Any) -> Output:
        """Compute as the parent does without `attached`."""
        return super().forward(segment, memory)


def build_detaching(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory linear_attention_model:build_detaching`."""
    return Detaching(config, vocabulary_size)
