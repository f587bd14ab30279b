"""Gated linear attention (Yang et al. 2023, arXiv 2312.06635), chunk by chunk in plain PyTorch.

Each head keeps a matrix S, to which a token adds its key times its value, and of which each row
decays by a gate of its own that the token computes: Sₜ = diag(αₜ) Sₜ₋₁ + kₜᵀ vₜ, and oₜ = qₜ Sₜ.

B streams · T tgt_len · C positions of a chunk · D width · H heads · K width of a key · E width of a
value.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trainer.config.recipe import ModelConfig
from trainer.model.families.blocks import Chunk, in_chunks, split_heads
from trainer.model.families.stack import Sizes, heads_of, stacked

#: The power of a decay is one over this, which makes memory long (section 4.4).
_TEMPERATURE = 16


class Options(Sizes):
    """Sizes of the network."""

    d_gate: int = Field(16, ge=1, description="rank of the projection that computes decays")
    chunk_len: int = Field(
        16, ge=1, description="tokens read at once: more is faster, and takes its square of memory"
    )


class GatedLinearAttention(nn.Module):
    """A `Mixer` whose state is a matrix per head, `[B, H, K, E]`."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.shape = (options.n_head, options.d_key, options.d_value)
        d_model, n_head = options.d_model, options.n_head
        keys, values = n_head * options.d_key, n_head * options.d_value
        self.heads = heads_of(options)
        self.decay = nn.Sequential(
            nn.Linear(d_model, options.d_gate, bias=False), nn.Linear(options.d_gate, keys)
        )
        self.gate = nn.Linear(d_model, values)
        self.norm = nn.LayerNorm(options.d_value)
        self.out = nn.Linear(values, d_model, bias=False)

    def empty_memory(self, n_streams: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the matrices of streams that have read nothing."""
        return torch.zeros(n_streams, *self.shape, dtype=dtype, device=device)

    def forward(
        self, x_BTD: Tensor, chunks: tuple[Chunk, ...], state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the layer's output, and the matrices after the segment; see `Mixer`."""
        n_head, d_key, _ = self.shape
        q_BHTK, k_BHTK, v_BHTE = self.heads(x_BTD, state.dtype)
        gate_BHTK = split_heads(self.decay(x_BTD), n_head, state.dtype)
        with torch.autocast(x_BTD.device.type, enabled=False):
            decay_BHTK = F.logsigmoid(gate_BHTK) / _TEMPERATURE
            rows = (q_BHTK * d_key**-0.5, k_BHTK, v_BHTE, decay_BHTK)
            o_BHTE, state = self.read(rows, chunks, state)
        o_BTHE = self.norm(o_BHTE.transpose(1, 2).to(x_BTD.dtype))
        y_BTD: Tensor = self.out(F.silu(self.gate(x_BTD)) * o_BTHE.flatten(2))
        return y_BTD, state

    def read(
        self, rows: Sequence[Tensor], chunks: tuple[Chunk, ...], state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what the queries find, `[B, H, T, E]`, and the matrices after; see `attend`."""
        return in_chunks(attend, rows, chunks, state)


def attend(
    q_BHCK: Tensor,
    k_BHCK: Tensor,
    v_BHCE: Tensor,
    decay_BHCK: Tensor,
    *,
    chunk: Chunk,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Read a chunk; return what its queries find, `[B, H, C, E]`, and the matrices after it.

    All that is exponentiated is a sum of logarithms of decays, none above 0, so nothing overflows
    however fast memory decays (section 4.3, where the quotient of two products would).

    Args:
        q_BHCK: queries, scaled.
        k_BHCK: keys.
        v_BHCE: values.
        decay_BHCK: logarithms of the decays.
        chunk: what sees what.
        state: the matrices before the chunk.
    """
    is_real_B1C1 = chunk.is_real_BC[:, None, :, None]
    sum_BHCK = decay_BHCK.where(is_real_B1C1, 0.0).cumsum(dim=2)
    between_BHCCK = sum_BHCK[:, :, :, None] - sum_BHCK[:, :, None]
    sees_B1CC1 = chunk.sees_BCC[:, None, :, :, None]
    decayed_BHCCK = between_BHCCK.masked_fill(~sees_B1CC1, -torch.inf).exp()
    scores_BHCC = (q_BHCK[:, :, :, None] * decayed_BHCCK * k_BHCK[:, :, None]).sum(-1)
    sees_state_B1C1 = chunk.sees_state_BC[:, None, :, None]
    of_state_BHCK = (q_BHCK * sum_BHCK.exp()).where(sees_state_B1C1, 0.0)
    o_BHCE = scores_BHCC @ v_BHCE + of_state_BHCK @ state
    last_BH1K = sum_BHCK[:, :, -1:]
    is_kept_B1C1 = chunk.sees_BCC[:, None, -1, :, None]
    kept_BHCK = (k_BHCK * (last_BH1K - sum_BHCK).exp()).where(is_kept_B1C1, 0.0)
    before_BHKE = (last_BH1K.exp().mT * state).where(sees_state_B1C1[:, :, -1:], 0.0)
    return o_BHCE, before_BHKE + kept_BHCK.mT @ v_BHCE


def build(config: ModelConfig, vocabulary_size: int, options: Options) -> nn.Module:
    """Build the model of `--model.kind gla`."""
    mixers = [GatedLinearAttention(options) for _ in range(options.n_layer)]
    return stacked(mixers, config, vocabulary_size, options)
