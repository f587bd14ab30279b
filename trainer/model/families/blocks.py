"""Blocks with a state per layer: a mixer over time, then a SwiGLU feed-forward layer, pre-norm.

B streams · T tgt_len · C positions of a chunk · D width · F hidden width · H heads · K width of a
key · E width of a value.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.config.recipe import ModelConfig
from trainer.model.dropout import dropout
from trainer.protocol import Segment


class Mixer(Protocol):
    """A layer that reads over time, from a state that a stream carries."""

    def empty_memory(self, n_streams: int, *, device: torch.device, dtype: torch.dtype) -> Any:
        """Return the state of streams that have read nothing, in `dtype`."""
        ...

    def __call__(
        self, x_BTD: Tensor, chunks: "tuple[Chunk, ...]", state: Any
    ) -> tuple[Tensor, Any]:
        """Return what the layer adds to its input, and the state after the segment."""
        ...


class Chunk(NamedTuple):
    """A few positions that follow one another, and what each of them sees.

    A document that starts inside a chunk sees nothing before it, and padding is seen by no one.
    """

    positions: slice
    sees_BCC: Tensor
    """True where a position, a row, sees another or itself, a column."""
    sees_state_BC: Tensor
    """True where a position sees what was read before the chunk."""
    is_real_BC: Tensor
    """True where there is a token, false where there is padding."""


def chunks_of(segment: Segment, size: int) -> tuple[Chunk, ...]:
    """Return chunks of `size` positions; the last may have less. The device is not waited for."""
    places_T = torch.arange(segment.tokens_BT.shape[1], device=segment.tokens_BT.device)
    is_real_BT = places_T < segment.lengths_B[:, None]
    starts_BT = torch.full_like(segment.tokens_BT, -1)
    if segment.starts_BT is not None:  # padding belongs to the document before it
        starts_BT = segment.starts_BT.where(is_real_BT, -1).cummax(dim=1).values
    return tuple(_chunks(places_T, is_real_BT, starts_BT, size))


def _chunks(places_T: Tensor, is_real_BT: Tensor, starts_BT: Tensor, size: int) -> Iterator[Chunk]:
    for begin in range(0, len(places_T), size):
        positions = slice(begin, begin + size)
        places_C, is_real_BC = places_T[positions], is_real_BT[:, positions]
        starts_BC = starts_BT[:, positions]
        sees_BCC = (places_C <= places_C[:, None]) & (places_C >= starts_BC[..., None])
        yield Chunk(
            positions=positions,
            sees_BCC=sees_BCC & is_real_BC[:, None],
            sees_state_BC=starts_BC < begin,
            is_real_BC=is_real_BC,
        )


def in_chunks(
    read: Callable[..., tuple[Tensor, Any]],
    rows: Sequence[Tensor],
    chunks: tuple[Chunk, ...],
    state: Any,
) -> tuple[Tensor, Any]:
    """Read rows `[B, H, T, …]` chunk by chunk; return what is read and the state after the last.

    `read` takes a chunk's part of each of the rows, the `chunk`, and the state before it.
    """
    outputs = []
    for chunk in chunks:
        parts = (row[:, :, chunk.positions] for row in rows)
        output, state = read(*parts, chunk=chunk, state=state)
        outputs.append(output)
    return torch.cat(outputs, dim=2), state


def split_heads(x_BTX: Tensor, n_head: int, dtype: torch.dtype) -> Tensor:
    """Return rows cut into heads, `[B, H, T, X / H]`, in the dtype of the state."""
    return x_BTX.view(*x_BTX.shape[:2], n_head, -1).transpose(1, 2).to(dtype)


class Heads(nn.Module):
    """Queries, keys and values of every head."""

    def __init__(self, d_model: int, *, n_head: int, d_key: int, d_value: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.query = nn.Linear(d_model, n_head * d_key, bias=False)
        self.key = nn.Linear(d_model, n_head * d_key, bias=False)
        self.value = nn.Linear(d_model, n_head * d_value, bias=False)

    def forward(self, x_BTD: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, `[B, H, T, K]`, and values, `[B, H, T, E]`, in `dtype`."""
        q_BHTK, k_BHTK, v_BHTE = (
            split_heads(projected(x_BTD), self.n_head, dtype)
            for projected in (self.query, self.key, self.value)
        )
        return q_BHTK, k_BHTK, v_BHTE


class SwiGlu(nn.Module):
    """A feed-forward layer gated by itself (Shazeer 2020): (swish(x W₁) ⊙ x W₂) W₃."""

    def __init__(self, d_model: int, d_inner: int) -> None:
        super().__init__()
        self.inner = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.outer = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what the layer adds to its input."""
        gate_BTF, value_BTF = self.inner(x_BTD).chunk(2, dim=-1)
        added_BTD: Tensor = self.outer(F.silu(gate_BTF) * value_BTF)
        return added_BTD


class Block(nn.Module):
    """A mixer and a feed-forward layer, each after a norm and added to its input."""

    def __init__(self, mixer: nn.Module, d_model: int, d_inner: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.mixer_norm, self.mixer = nn.LayerNorm(d_model), mixer
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.feed_forward = SwiGlu(d_model, d_inner)

    def forward(self, x_BTD: Tensor, chunks: tuple[Chunk, ...], state: Any) -> tuple[Tensor, Any]:
        """Return the block's output, and the mixer's state after the segment."""
        added_BTD, state = self.mixer(self.mixer_norm(x_BTD), chunks, state)
        x_BTD = x_BTD + self._dropped(added_BTD)
        added_BTD = self.feed_forward(self.feed_forward_norm(x_BTD))
        return x_BTD + self._dropped(added_BTD), state

    def _dropped(self, x_BTD: Tensor) -> Tensor:
        return dropout(x_BTD, self.dropout, training=self.training)


class Blocks(nn.Module):
    """A `Body` of blocks and a last norm; its memory is a tuple of the mixers' states."""

    def __init__(
        self,
        config: ModelConfig,
        mixers: Sequence[nn.Module],
        *,
        d_model: int,
        d_inner: int,
        chunk_len: int,
    ) -> None:
        """Stack a block on each mixer. The segment is read in chunks of `chunk_len` positions."""
        super().__init__()
        self.chunk_len, self.checkpoints = chunk_len, config.activation_checkpointing
        self.blocks = nn.ModuleList(
            Block(mixer, d_model, d_inner, dropout=config.dropout) for mixer in mixers
        )
        self.norm = nn.LayerNorm(d_model)

    @property
    def is_static(self) -> bool:
        """Return whether a pass may be captured: not where blocks are computed again."""
        return not self.checkpoints

    def empty_memory(
        self, n_streams: int, *, dtype: torch.dtype, device: torch.device
    ) -> tuple[Any, ...]:
        """Return the states of streams that have read nothing, in fp32 at least."""
        dtype = torch.promote_types(dtype, torch.float32)
        mixers: list[Any] = [block.mixer for block in self.blocks]
        return tuple(mixer.empty_memory(n_streams, dtype=dtype, device=device) for mixer in mixers)

    def forward(
        self, x_BTD: Tensor, segment: Segment, memory: tuple[Any, ...]
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Return hidden states after the last norm, and the states; see `Body`."""
        chunks, states = chunks_of(segment, self.chunk_len), []
        for block, state in zip(self.blocks, memory, strict=True):
            if self.checkpoints and self.training:
                x_BTD, state = checkpoint(block, x_BTD, chunks, state, use_reentrant=False)
            else:
                x_BTD, state = block(x_BTD, chunks, state)
            states.append(state)
        return self.norm(x_BTD), tuple(states)
