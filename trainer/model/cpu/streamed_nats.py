"""Nats of words without a gradient: one piece of a table at a time, and no logits are kept.

The exponentials are summed relative to the largest logit so far: online softmax (Milakov &
Gimelshein 2018).

N positions · C width · W words of a piece · K rows whose target is in a piece.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.model.adaptive import Table
from trainer.model.backend import compute_dtype
from trainer.model.cpu.linear_nll import pieces
from trainer.model.cpu.word_runs import runs
from trainer.protocol import IGNORED

#: Rows at a time: their logits of one piece of a table stay in the cache.
_READ_ROWS = 256


@torch.no_grad()
def streamed_nats(hidden_NC: Tensor, targets_N: Tensor, tables: Sequence[Table]) -> Tensor:
    """Return what `linear_nll` returns, without a gradient: logits never leave the cache."""
    dtype = compute_dtype(hidden_NC)
    exact = torch.promote_types(dtype, torch.float32)
    hidden, index_N = hidden_NC.to(dtype), targets_N.clamp_min(0)
    largest_N = hidden.new_full((len(hidden),), torch.finfo(exact).min, dtype=exact)
    total_N, chosen_N = torch.zeros_like(largest_N), torch.zeros_like(largest_N)
    with torch.autocast(hidden.device.type, enabled=False):
        for weight_WC, bias_W, words in pieces([x for table in tables for x in table], dtype):
            for rows in runs(len(hidden), size=_READ_ROWS):
                logits = torch.addmm(bias_W, hidden[rows], weight_WC.t())
                here = rows_K, _ = _targets_among(index_N[rows], words)
                chosen_N[rows][rows_K] = logits[here].to(exact)
                larger_N = torch.maximum(largest_N[rows], logits.amax(dim=1))
                total_N[rows] *= (largest_N[rows] - larger_N).exp_()
                total_N[rows] += _exponentials(logits, larger_N).sum(dim=1)
                largest_N[rows] = larger_N
    return (total_N.log_() - chosen_N.sub_(largest_N)).masked_fill_(targets_N == IGNORED, 0)


def _targets_among(index_N: Tensor, words: slice) -> tuple[Tensor, Tensor]:
    """Return the rows whose target is one of these words, and the target's place among `words`."""
    at_N = index_N - words.start
    rows_K = ((at_N >= 0) & (at_N < words.stop - words.start)).nonzero()[:, 0]
    return rows_K, at_N[rows_K]


def _exponentials(logits: Tensor, taken_off_N: Tensor) -> Tensor:
    """Return exp(logits - taken_off) in the dtype of `taken_off_N`, in place if dtypes agree."""
    if logits.dtype == taken_off_N.dtype:
        return logits.sub_(taken_off_N[:, None]).exp_()
    return (logits - taken_off_N[:, None]).exp_()
