"""A Recurrent Memory Transformer (Bulatov et al. 2022, arXiv 2207.06881) of any causal model.

A model of Hugging Face's transformers reads each segment between memory tokens: those before it
hold what was written after the last segment, and what the model makes of those after it is written
for the next. All tokens of the segment see the first, and the last see all of the segment.

B streams · P pieces · T tgt_len · M memory tokens · S = M+T+M · D width · V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trainer.config.recipe import ModelConfig
from trainer.errors import InputError
from trainer.model.dropout import dropout
from trainer.model.families.huggingface import Sizes, causal_model
from trainer.model.families.pieces import cut
from trainer.protocol import IGNORED, Output, Segment


class Options(Sizes):
    """The model between the memory tokens, and their number."""

    n_memory: int = Field(8, ge=1, description="memory tokens read before a segment, and written")


class RecurrentMemory(nn.Module):
    """A `trainer.protocol.RecurrentModel` whose state is what was written, `[B, M, D]`.

    Where nothing was written yet, that is zeros. What the model reads is the sum of the state and
    of embeddings that are learned: some for the tokens before a segment, others for those after.
    """

    whole_segments = True

    def __init__(self, config: ModelConfig, vocabulary_size: int, options: Options) -> None:
        """Build the model, or read the one that the options name."""
        super().__init__()
        self.config, self.n_memory = config, options.n_memory
        self.model = causal_model(config, vocabulary_size, options)
        self.width, self.n_positions = _sizes(self.model.config)
        self.tokens_2MD = nn.Parameter(torch.empty(2, self.n_memory, self.width))
        with torch.no_grad():
            self.tokens_2MD.normal_(std=config.init_std)

    def empty_memory(
        self, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Return memory of `n_streams` streams for which nothing was written; it has no length."""
        return torch.zeros(n_streams, self.n_memory, self.width, dtype=dtype, device=device)

    def reach(self, mem_len: int, tgt_len: int) -> None:
        """Return that memory looks back without end, see `trainer.protocol.Reach`."""

    def forward(
        self,
        segment: Segment,
        memory: Tensor,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
        attached: bool = False,
    ) -> Output:
        """Read a segment, predict its targets and write memory; lengths mean nothing here.

        With `attached` the memory returned is not detached from the graph.
        """
        return self._forward(segment, memory, attached=attached)[0]

    def forward_with_hidden(
        self,
        segment: Segment,
        memory: Tensor,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> tuple[Output, Tensor]:
        """Return what `forward` returns, and what `hidden` does, in one pass."""
        output, hidden_BTD = self._forward(segment, memory)
        return output, hidden_BTD.detach()

    def predict(
        self,
        segment: Segment,
        memory: Tensor,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of the token after each, `[B, T, V]`, and the memory after."""
        logits_BTV, _, after = self._read(segment, memory)
        return logits_BTV.log_softmax(dim=-1), after.detach()

    def hidden(
        self,
        segment: Segment,
        memory: Tensor,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Read a segment; return the last layer's output, `[B, T, D]`, and the memory."""
        _, hidden_BTD, after = self._read(segment, memory)
        return hidden_BTD, after.detach()

    def _forward(
        self, segment: Segment, memory: Tensor, *, attached: bool = False
    ) -> tuple[Output, Tensor]:
        """Return what `forward` returns, and the last layer's output."""
        logits_BTV, hidden_BTD, after = self._read(segment, memory)
        nll_BT = F.cross_entropy(
            logits_BTV.mT, segment.targets_BT, ignore_index=IGNORED, reduction="none"
        )
        after = after if attached else after.detach()
        return Output(nll_BT.sum(), nll_BT.detach(), after), hidden_BTD

    def _read(self, segment: Segment, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits in fp32 at least, hidden states, and the memory written."""
        x_BTD = self.model.get_input_embeddings()(segment.tokens_BT)
        x_BTD = dropout(x_BTD, self.config.dropout, training=self.training)
        if segment.starts_BT is None:
            lengths_B = None if segment.whole else segment.lengths_B
            return self._between(x_BTD, lengths_B, memory)
        pieces = cut(segment)
        before = pieces.before(memory, unread=torch.zeros_like(memory[:1]))
        logits_PXV, hidden_PXD, after = self._between(pieces.rows(x_BTD), pieces.lengths_P, before)
        return pieces.joined(logits_PXV), pieces.joined(hidden_PXD), pieces.after(after)

    def _between(
        self, x_BTD: Tensor, lengths_B: Tensor | None, memory_BMD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read rows of so many tokens each, of all without lengths, between memory tokens.

        The written tokens come right after a row's last token, so that no mask is needed: nothing
        sees the padding, which comes last.
        """
        n_memory, tgt_len = self.n_memory, x_BTD.shape[1]
        self._check_length(n_memory + tgt_len + n_memory)
        old_BMD = memory_BMD.to(x_BTD.dtype)
        read_MD, write_MD = self.tokens_2MD.to(x_BTD.dtype)
        x_BSD = torch.cat([old_BMD + read_MD, x_BTD, old_BMD + write_MD], dim=1)
        if lengths_B is not None:
            x_BSD = x_BSD.gather(1, _wide(_order(lengths_B, n_memory, tgt_len), self.width))
        logits_BSV, layers = self.model(
            inputs_embeds=x_BSD, use_cache=False, output_hidden_states=True, return_dict=False
        )[:2]
        y_BSD = layers[-1]
        logits_BTV = logits_BSV[:, n_memory : n_memory + tgt_len]
        logits_BTV = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
        hidden_BTD = y_BSD[:, n_memory : n_memory + tgt_len]
        if lengths_B is None:
            after_BMD = y_BSD[:, n_memory + tgt_len :].to(memory_BMD.dtype)
            return logits_BTV, hidden_BTD, after_BMD.clone()
        places_M = n_memory + torch.arange(n_memory, device=x_BTD.device)
        written_BMD = y_BSD.gather(1, _wide(lengths_B[:, None] + places_M, self.width))
        is_read_B11 = (lengths_B > 0)[:, None, None]
        after_BMD = torch.where(is_read_B11, written_BMD.to(memory_BMD.dtype), memory_BMD)
        return logits_BTV, hidden_BTD, after_BMD

    def _check_length(self, n_positions: int) -> None:
        if self.n_positions is not None and n_positions > self.n_positions:
            raise InputError(
                f"the model reads at most {self.n_positions:,} positions, and a segment with its "
                f"memory tokens has {n_positions:,}: lower tgt_len, or raise "
                "--model.options.n-positions of a model with new weights"
            )


def _sizes(config: Any) -> tuple[int, int | None]:
    """Return the width of a model of transformers, and how many positions it has."""
    return config.hidden_size, getattr(config, "max_position_embeddings", None)


def _order(lengths_B: Tensor, n_memory: int, tgt_len: int) -> Tensor:
    """Return which of [read, tokens, write] stands at each place, `[B, S]`, padding last."""
    n_places = n_memory + tgt_len + n_memory
    places_S = torch.arange(n_places, device=lengths_B.device)
    end_B1 = n_memory + lengths_B[:, None]
    after_BS = (places_S - lengths_B[:, None] + tgt_len).clamp_max(n_places - 1)
    return torch.where(places_S < end_B1, places_S, after_BS)


def _wide(index: Tensor, width: int) -> Tensor:
    return index[..., None].expand(-1, -1, width)


def build(config: ModelConfig, vocabulary_size: int, options: Options) -> nn.Module:
    """Build the model of `--model.kind rmt`."""
    return RecurrentMemory(config, vocabulary_size, options)
