"""An LSTM (Hochreiter & Schmidhuber 1997), PyTorch's own, that carries its hidden and cell state.

B streams · T tgt_len · L layers · D width · P pieces, see `trainer.model.families.pieces`.
"""

from typing import NamedTuple

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from trainer.config.recipe import ModelConfig
from trainer.model.families.language_model import LanguageModel
from trainer.model.families.pieces import cut
from trainer.protocol import Segment


class Options(BaseModel):
    """Sizes of the network."""

    d_model: int = Field(256, ge=1, description="width of the embedding, of a layer and its cell")
    n_layer: int = Field(2, ge=1, description="layers")


class State(NamedTuple):
    """State of streams, `[B, L, D]` each, in the compute dtype."""

    hidden: Tensor
    cell: Tensor


class Lstm(nn.Module):
    """A `Body` of LSTM layers, with dropout between them."""

    is_static = False

    def __init__(self, options: Options, *, dropout: float) -> None:
        super().__init__()
        self.options = options
        width, n_layer = options.d_model, options.n_layer
        between = dropout if n_layer > 1 else 0.0
        self.lstm = nn.LSTM(width, width, n_layer, batch_first=True, dropout=between)

    def empty_memory(self, n_streams: int, *, dtype: torch.dtype, device: torch.device) -> State:
        """Return the state of streams that have read nothing."""
        shape = (n_streams, self.options.n_layer, self.options.d_model)
        return State(*(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)))

    def forward(self, x_BTD: Tensor, segment: Segment, memory: State) -> tuple[Tensor, State]:
        """Return outputs of the last layer, and the state; see `Body`."""
        if segment.starts_BT is None:
            lengths_B = None if segment.whole else segment.lengths_B
            return self._read(x_BTD, lengths_B, memory)
        pieces = cut(segment)
        like = memory.cell
        unread = self.empty_memory(1, dtype=like.dtype, device=like.device)
        y_PXD, after = self._read(
            pieces.rows(x_BTD), pieces.lengths_P, pieces.before(memory, unread=unread)
        )
        return pieces.joined(y_PXD), pieces.after(after)

    def _read(self, x_BTD: Tensor, lengths_B: Tensor | None, memory: State) -> tuple[Tensor, State]:
        """Read rows of so many tokens each, of all if there are no lengths."""
        before = tuple(part.to(x_BTD.dtype).transpose(0, 1).contiguous() for part in memory)
        if lengths_B is None:
            y_BTD, after = self.lstm(x_BTD, before)
        else:
            # No row may be empty, so an empty one reads a token, and its state is left as it was.
            sizes_B = lengths_B.clamp_min(1).cpu()
            packed = pack_padded_sequence(x_BTD, sizes_B, batch_first=True, enforce_sorted=False)
            packed, after = self.lstm(packed, before)
            y_BTD, _ = pad_packed_sequence(packed, batch_first=True, total_length=x_BTD.shape[1])
        state = [
            new.transpose(0, 1).to(old.dtype, memory_format=torch.contiguous_format, copy=True)
            for new, old in zip(after, memory, strict=True)
        ]
        if lengths_B is not None:
            is_read_B11 = (lengths_B > 0)[:, None, None]
            state = [
                torch.where(is_read_B11, new, old) for new, old in zip(state, memory, strict=True)
            ]
        return y_BTD, State(*state)


def build(config: ModelConfig, vocabulary_size: int, options: Options) -> nn.Module:
    """Build the model of `--model.kind lstm`."""
    body = Lstm(options, dropout=config.dropout)
    return LanguageModel(config, vocabulary_size, width=options.d_model, body=body)
