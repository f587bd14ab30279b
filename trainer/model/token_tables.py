"""Tables of vectors that join the residual stream: one for each token, or for each hashed pair.

What the last token or two say by themselves then needs no attention and no product: a row is added,
which costs the same however many rows there are. All begin at zero, so that a model begins as it
would without them. The tables of tokens follow the value embeddings of modded-nanogpt, but are
added to what a layer reads, so that memory has them, too. The pairs are hashed bigrams, of which
several may share a row.

B streams · T tgt_len · D d_model · V vocabulary · R rows.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.adaptive import Lookup
from trainer.model.layer import Hidden, Twin
from trainer.protocol import Segment

#: The number of a table that the softmax does not share.
_NOT_THE_SOFTMAXS = -1
#: Odd factors of 64 bits, by which products scatter (xxHash's second and third prime).
_OF_TOKEN, _OF_BEFORE = 0xC2B2AE3D27D4EB4F - 2**64, 0x165667B19E3779F9


class TokenTable(nn.Module):
    """A table of vectors to add."""

    def __init__(self, n_rows: int, d_model: int) -> None:
        super().__init__()
        self.scale = math.sqrt(d_model)
        self.weight = nn.Parameter(torch.empty(n_rows, d_model))

    def forward(self, rows_BT: Tensor, lookup: Lookup) -> Tensor:
        """Return rows times √D, `[B, T, D]`, scaled as embeddings are; pads stay pads."""
        found_ND = lookup(rows_BT.flatten(), self.weight, _NOT_THE_SOFTMAXS)
        return torch.unflatten(found_ND * self.scale, 0, rows_BT.shape)


def added(x_BTD: Hidden, rows_BTD: Tensor) -> Hidden:
    """Return hidden states with rows added; a back end may have padded either's width."""
    if isinstance(x_BTD, Twin):
        sum_BTD = x_BTD.wide + _as_wide(rows_BTD, x_BTD.wide)
        return Twin(sum_BTD, sum_BTD.to(x_BTD.narrow.dtype))
    return x_BTD + _as_wide(rows_BTD, x_BTD)


def _as_wide(rows_BTD: Tensor, x_BTD: Tensor) -> Tensor:
    n_pads = x_BTD.shape[-1] - rows_BTD.shape[-1]
    return F.pad(rows_BTD, (0, n_pads)) if n_pads else rows_BTD


def pair_rows(segment: Segment, last_B: Tensor, *, n_words: int, n_rows: int) -> Tensor:
    """Return the row of each token and the one before it, of `n_rows`, int64 `[B, T]`.

    Args:
        segment: what is read.
        last_B: each stream's last token before the segment, or `n_words`.
        n_words: V, which stands for no token before: there a text or a document begins.
        n_rows: R.
    """
    tokens_BT = segment.tokens_BT
    before_BT = torch.cat([last_B[:, None], tokens_BT[:, :-1]], dim=1)
    if segment.starts_BT is not None:
        own_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        before_BT = torch.where(segment.starts_BT == own_T, n_words, before_BT)
    return hashed(tokens_BT, before_BT) % n_rows


def hashed(tokens: Tensor, before: Tensor) -> Tensor:
    """Return a number of 64 bits for each token and the one before it, the same everywhere."""
    mixed = tokens * _OF_TOKEN + before * _OF_BEFORE
    mixed = (mixed ^ (mixed >> 29)) * _OF_TOKEN
    return mixed ^ (mixed >> 32)


def no_last(n_streams: int, n_words: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return what memory has of streams that have read nothing: no last token."""
    return (torch.full((n_streams,), n_words, dtype=torch.int64, device=device),)
