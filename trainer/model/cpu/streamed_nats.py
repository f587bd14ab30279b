"""Nats of words where no gradient is wanted: a table goes by a piece at a time, no logits are kept.

What is summed are exponentials less the largest so far, as in online softmax (Milakov & Gimelshein
2018).

N positions · C width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.model.adaptive import Table
from trainer.model.backend import compute_dtype
from trainer.model.cpu.linear_nll import pieces
from trainer.model.cpu.word_runs import runs
from trainer.protocol import IGNORED

#: Rows whose logits of some words are made at a time.
_READ_ROWS = 256


@torch.no_grad()
def streamed_nats(hidden_NC: Tensor, targets_N: Tensor, tables: Sequence[Table]) -> Tensor:
    """Return what `linear_nll` does, without a gradient: logits are in the cache alone."""
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
    """Return the rows whose target is one of these words, and which of them."""
    at_N = index_N - words.start
    rows_K = ((at_N >= 0) & (at_N < words.stop - words.start)).nonzero()[:, 0]
    return rows_K, at_N[rows_K]


def _exponentials(logits: Tensor, taken_off_N: Tensor) -> Tensor:
    """Return exponentials of logits less what is taken off, in its dtype; in place, if possible."""
    if logits.dtype == taken_off_N.dtype:
        return logits.sub_(taken_off_N[:, None]).exp_()
    return (logits - taken_off_N[:, None]).exp_()
