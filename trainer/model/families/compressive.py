"""A Compressive Transformer (Rae et al. 2020, arXiv 1911.05507): Transformer-XL that compresses.

Inputs that leave memory are not forgotten, but c at a time made into one position of a second
memory, by a linear layer of its own in each layer. It learns by the paper's attention
reconstruction: the segment's queries shall find in the compressed positions what they find in the
inputs. Its gradient goes into that layer alone. Both memories are attended to as one.

B streams · T tgt_len · K positions of memory · S = K+T · J blocks · c rate · D d_model · H heads ·
E d_head.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from trainer.config.recipe import ModelConfig
from trainer.errors import InputError
from trainer.model.attention import RelativeAttention
from trainer.model.backend import Backend
from trainer.model.layer import Layer
from trainer.model.memory.compressed import (
    CompressedInputs,
    Lengths,
    Move,
    empty_memory,
    move,
    resized,
)
from trainer.model.memory.seen import Seen
from trainer.model.transformer_xl import Left, TransformerXL
from trainer.protocol import Segment, layered


class Options(BaseModel):
    """Sizes of the network, and of its second memory."""

    d_model: int = Field(256, ge=2, multiple_of=2, description="width of the residual stream; even")
    n_layer: int = Field(4, ge=1, description="layers")
    n_head: int = Field(4, ge=1, description="attention heads")
    d_head: int = Field(64, ge=1, description="width of one attention head")
    d_inner: int = Field(768, ge=1, description="hidden width of the feed-forward layer")
    norm: Literal["post", "pre"] = Field("pre", description="LayerNorm after or before a sublayer")
    compressed_len: int = Field(64, ge=1, description="compressed positions per layer and stream")
    rate: int = Field(4, ge=1, description="inputs that are made into one compressed position")


class Compression(nn.Module):
    """A layer that makes one position of c inputs, judged by what attention finds in it."""

    def __init__(self, config: ModelConfig, rate: int) -> None:
        """Begin with the mean of c inputs."""
        super().__init__()
        self.rate = rate
        self.weight = nn.Parameter(torch.eye(config.d_model).repeat(1, rate) / rate)
        self.bias = nn.Parameter(torch.zeros(config.d_model))

    def forward(
        self,
        layer: Layer,
        old_BKD: Tensor,
        x_BTD: Tensor,
        moved: Move,
        lengths_B: Tensor,
        attached: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Return a layer's memory after its inputs of a segment, and in training the loss.

        With `attached` gradients also go through memory.
        """
        x_BTD = x_BTD[..., : old_BKD.shape[-1]].to(old_BKD.dtype)  # back ends may pad rows
        with torch.set_grad_enabled(attached and torch.is_grad_enabled()):
            x_BSD = torch.cat([old_BKD, x_BTD], dim=1)
            after_BKD = moved.after(x_BSD, self._made(moved.inputs(x_BSD)).to(x_BSD.dtype))
        if not (self.training and torch.is_grad_enabled()):
            return after_BKD, None
        inputs_BXD = moved.inputs(x_BSD.detach())
        made_BJD = self._made(inputs_BXD).to(x_BSD.dtype)
        found, sought = (
            _found(layer.attention, x_BTD.detach(), rows, moved.made_B * each)
            for rows, each in ((made_BJD, 1), (inputs_BXD, self.rate))
        )
        is_real_BT = torch.arange(x_BTD.shape[1], device=x_BTD.device) < lengths_B[:, None]
        is_asked_BT = is_real_BT & (moved.made_B > 0)[:, None]
        off_BT = (found - sought.detach()).square().mean(dim=(2, 3))
        return after_BKD, off_BT.where(is_asked_BT, 0).sum()

    def _made(self, inputs_BXD: Tensor) -> Tensor:
        """Return a position of each c inputs, `[B, J, D]`."""
        blocks_BJY = torch.unflatten(inputs_BXD, 1, (-1, self.rate)).flatten(2)
        return F.linear(blocks_BJY, self.weight, self.bias)


def _found(attention: RelativeAttention, x_BTD: Tensor, rows_BND: Tensor, n_B: Tensor) -> Tensor:
    """Return what queries of a segment find in the first n of other rows, `[B, T, H, E]`.

    Attention is by content alone, and no weight of the layer learns by it.
    """
    heads, norm = (attention.n_head, -1), attention.norm
    query, key_value = (part.weight.detach() for part in (attention.query, attention.key_value))
    if attention.pre_norm:
        gain, bias = norm.weight.detach(), norm.bias.detach()
        x_BTD, rows_BND = (
            F.layer_norm(rows, norm.normalized_shape, gain, bias, norm.eps)
            for rows in (x_BTD, rows_BND)
        )
    q_BTHE = torch.unflatten(F.linear(x_BTD, query), -1, heads)
    kv_BN2HE = torch.unflatten(F.linear(rows_BND, key_value), -1, (2, *heads))
    k_BNHE, v_BNHE = kv_BN2HE.unbind(2)
    scaled_BTHE = q_BTHE / math.sqrt(q_BTHE.shape[-1])
    score_BHTN = _wide(torch.einsum("bthe,bnhe->bhtn", scaled_BTHE, k_BNHE))
    is_hidden_BN = torch.arange(rows_BND.shape[1], device=n_B.device) >= n_B[:, None]
    least = torch.finfo(score_BHTN.dtype).min
    weight_BHTN = score_BHTN.masked_fill(is_hidden_BN[:, None, None], least).softmax(dim=-1)
    return _wide(torch.einsum("bhtn,bnhe->bthe", weight_BHTN.to(v_BNHE.dtype), v_BNHE))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class CompressiveTransformer(TransformerXL):
    """A Transformer-XL whose layers also attend to what they have compressed."""

    def __init__(self, config: ModelConfig, vocabulary_size: int, options: Options) -> None:
        """Build the model; `config` has the sizes of `options`."""
        super().__init__(config, vocabulary_size)
        self.lengths = Lengths(options.compressed_len, options.rate)
        self.compressions = nn.ModuleList(
            Compression(config, options.rate) for _ in range(config.n_layer)
        )

    def reach(self, mem_len: int, tgt_len: int) -> int | None:
        """Return how many segments back the top layer looks, see `trainer.protocol.Reach`.

        None where segments may end inside a block of inputs: only who reads from the text's
        beginning then makes the same blocks.
        """
        compressed_len, rate = self.lengths
        if tgt_len % rate:
            return None
        return layered(self.config.n_layer)(mem_len + rate - 1 + compressed_len * rate, tgt_len)

    def empty_memory(  # type: ignore[override]
        self, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
    ) -> CompressedInputs:
        """Return memory of `n_streams` streams that have read nothing."""
        sizes = (self.config.n_layer, n_streams, mem_len, self.config.d_model)
        return empty_memory(*sizes, self.lengths, dtype=dtype, device=device)

    reading_memory = empty_memory  # type: ignore[assignment]

    def resized_memory(  # type: ignore[override]
        self, memory: CompressedInputs, *, mem_len: int
    ) -> CompressedInputs:
        """Return memory of another length, see `trainer.protocol.RecurrentModel`."""
        return resized(memory, mem_len, self.lengths)

    def _sight(
        self, backend: Backend, memory: Seen, segment: Segment, *, same_length: bool
    ) -> Tensor | None:
        if same_length:
            raise InputError(
                "same_length is not for a Compressive Transformer, whose memory has as many "
                "positions as were compressed: set it to false"
            )
        return super()._sight(backend, memory, segment, same_length=False)

    def _left(
        self, memory: Any, segment: Segment, inputs: Sequence[Tensor], *, attached: bool
    ) -> Left:
        memory = cast(CompressedInputs, memory)
        moved = move(memory, segment, self.lengths)
        layers, losses = [], []
        parts = zip(self.compressions, self.layers, memory.layers, inputs, strict=True)
        for compression, layer, old_BKD, x_BTD in parts:
            args = (layer, old_BKD, x_BTD, moved, segment.lengths_B, attached)
            after_BKD, loss = compression(*args)
            layers.append(after_BKD)
            losses.append(loss)
        after = CompressedInputs(tuple(layers), moved.valid_B, moved.inputs_B)
        taught = [loss for loss in losses if loss is not None]
        return Left(after, {"compression": torch.stack(taught).sum()} if taught else None)


def build(config: ModelConfig, vocabulary_size: int, options: Options) -> nn.Module:
    """Build the model of `--model.kind compressive`."""
    sizes = options.model_dump(exclude={"compressed_len", "rate"})
    return CompressiveTransformer(config.model_copy(update=sizes), vocabulary_size, options)
