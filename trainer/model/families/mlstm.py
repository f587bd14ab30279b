"""The mLSTM of xLSTM (Beck et al. 2024, arXiv 2405.04517), chunk by chunk in plain PyTorch.

Each head keeps a matrix C of values times keys, and the sum n of keys that its output is divided
by. Both decay by a forget gate, and take in each token with an exponential input gate (equations 19
to 27): Cₜ = fₜ Cₜ₋₁ + iₜ kₜᵀ vₜ, nₜ = fₜ nₜ₋₁ + iₜ kₜ, hₜ = qₜ Cₜ / max(|qₜ · nₜ|, 1). So that no
gate overflows, C and n are kept times exp(-m), where m is the largest exponent in them, or 0 if all
are below: exp(-m), which the quotient is computed with, would overflow itself.

Around it is the block of xLSTM 7B (Beck et al. 2025, arXiv 2503.13427): a norm of each head's
output, a sigmoid output gate, and a SwiGLU feed-forward layer, without the convolution of 2024.

B streams · T tgt_len · C positions of a chunk · D width · H heads · K width of a key · E width of a
value.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.recipe import ModelConfig
from trainer.model.families.blocks import Chunk, in_chunks
from trainer.model.families.stack import Sizes, heads_of, stacked

#: The forget gates of heads begin between the sigmoids of these (arXiv 2405.04517, appendix).
_FORGET_BIASES = (3.0, 6.0)


class State(NamedTuple):
    """State of streams, in fp32 at least."""

    matrix: Tensor
    """Values by keys, times exp(-m): `[B, H, K, E]`."""
    normaliser: Tensor
    """The sum of keys, times exp(-m): `[B, H, K]`."""
    maximum: Tensor
    """m, `[B, H]`, at least 0."""


class MLstm(nn.Module):
    """A `Mixer` whose state is a `State`."""

    def __init__(self, options: Sizes) -> None:
        super().__init__()
        self.shape = (options.n_head, options.d_key, options.d_value)
        d_model, n_head = options.d_model, options.n_head
        values = n_head * options.d_value
        self.heads = heads_of(options)
        self.gates = nn.Linear(d_model, 2 * n_head)  # the input gates of all heads come first
        self.output_gate = nn.Linear(d_model, values)
        self.norm = nn.LayerNorm(options.d_value)
        self.out = nn.Linear(values, d_model, bias=False)
        with torch.no_grad():
            self.gates.bias[:n_head].zero_()
            self.gates.bias[n_head:] = torch.linspace(*_FORGET_BIASES, n_head)

    def empty_memory(self, n_streams: int, *, dtype: torch.dtype, device: torch.device) -> State:
        """Return the state of streams that have read nothing."""
        n_head, d_key, d_value = self.shape
        shapes = ((n_head, d_key, d_value), (n_head, d_key), (n_head,))
        return State(
            *(torch.zeros(n_streams, *shape, dtype=dtype, device=device) for shape in shapes)
        )

    def forward(
        self, x_BTD: Tensor, chunks: tuple[Chunk, ...], state: State
    ) -> tuple[Tensor, State]:
        """Return the layer's output, and the state after the segment; see `Mixer`."""
        _, d_key, _ = self.shape
        dtype = state.matrix.dtype
        q_BHTK, k_BHTK, v_BHTE = self.heads(x_BTD, dtype)
        gates_BHT = self.gates(x_BTD).transpose(1, 2).to(dtype)
        with torch.autocast(x_BTD.device.type, enabled=False):
            input_BHT, forget_BHT = gates_BHT.chunk(2, dim=1)
            rows = [q_BHTK, k_BHTK * d_key**-0.5, v_BHTE, input_BHT, F.logsigmoid(forget_BHT)]
            h_BHTE, state = in_chunks(recall, rows, chunks, state)
        h_BTHE = self.norm(h_BHTE.transpose(1, 2).to(x_BTD.dtype))
        y_BTD: Tensor = self.out(self.output_gate(x_BTD).sigmoid() * h_BTHE.flatten(2))
        return y_BTD, state


def recall(
    q_BHCK: Tensor,
    k_BHCK: Tensor,
    v_BHCE: Tensor,
    input_BHC: Tensor,
    forget_BHC: Tensor,
    *,
    chunk: Chunk,
    state: State,
) -> tuple[Tensor, State]:
    """Read a chunk; return what its queries find, `[B, H, C, E]`, and the state after it.

    Args:
        q_BHCK: queries.
        k_BHCK: keys, scaled.
        v_BHCE: values.
        input_BHC: logarithms of the input gates.
        forget_BHC: logarithms of the forget gates.
        chunk: what sees what.
        state: the state before the chunk.
    """
    forget_BHC = forget_BHC.where(chunk.is_real_BC[:, None], 0.0)
    sum_BHC = forget_BHC.cumsum(dim=2)
    # The exponent with which each position finds each token, itself last, and the state before.
    of_tokens_BHCC = sum_BHC[..., None] + (input_BHC - sum_BHC)[:, :, None]
    of_tokens_BHCC = of_tokens_BHCC.masked_fill(~chunk.sees_BCC[:, None], -torch.inf)
    sees_state_B1C = chunk.sees_state_BC[:, None]
    # Where the state is not seen this is not above 0, and the maximum is not below.
    of_state_BHC = sum_BHC + state.maximum[..., None].where(sees_state_B1C, 0.0)
    maximum_BHC = torch.maximum(of_tokens_BHCC.amax(dim=-1), of_state_BHC).clamp_min(0.0)
    weights_BHCC = (of_tokens_BHCC - maximum_BHC[..., None]).exp()
    state_weight_BHC1 = (of_state_BHC - maximum_BHC).exp().where(sees_state_B1C, 0.0)[..., None]
    scores_BHCC = (q_BHCK @ k_BHCK.mT) * weights_BHCC
    state_q_BHCK = q_BHCK * state_weight_BHC1
    found_BHCE = scores_BHCC @ v_BHCE + state_q_BHCK @ state.matrix
    sum_q_BHC = scores_BHCC.sum(-1) + (state_q_BHCK @ state.normaliser[..., None])[..., 0]
    by_BHC = torch.maximum(sum_q_BHC.abs(), (-maximum_BHC).exp())
    kept_BHCK = k_BHCK * weights_BHCC[:, :, -1, :, None]
    last_BH11 = state_weight_BHC1[:, :, -1:]
    after = State(
        matrix=last_BH11 * state.matrix + kept_BHCK.mT @ v_BHCE,
        normaliser=last_BH11[..., 0] * state.normaliser + kept_BHCK.sum(dim=2),
        maximum=maximum_BHC[..., -1],
    )
    return found_BHCE / by_BHC[..., None], after


def build(config: ModelConfig, vocabulary_size: int, options: Sizes) -> nn.Module:
    """Build the model of `--model.kind mlstm`."""
    mixers = [MLstm(options) for _ in range(options.n_layer)]
    return stacked(mixers, config, vocabulary_size, options)
