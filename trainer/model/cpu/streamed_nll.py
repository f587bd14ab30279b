"""Nats of few positions among many words, which go by a piece at a time: no errors are kept.

Where a softmax has no more rows than its table is wide, their errors are the largest thing of a
step. Here the forward pass sums up over the words, while a piece of them lies in the cache, what
the backward pass and the gradient's norm want of the errors; the table's update, which alone wants
all of them, makes them again (`trainer.model.table_gradients.Product`).

What is summed are exponentials less the largest so far, as in online softmax (Milakov & Gimelshein
2018), without each row's target, whose error is the sum of all others: nothing cancels.

N positions · C width · V words of a table · W some of them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.model.cpu.linear_nll import Table, compute_dtype, pieces
from trainer.model.table_gradients import Product, TableGradients, exponentials, targets_among
from trainer.model.word_runs import runs
from trainer.protocol import IGNORED

#: Rows whose logits of some words are made at a time where nothing is kept.
_READ_ROWS = 256


def streamed_nll(
    hidden_NC: Tensor, targets_N: Tensor, tables: Sequence[Table], *, apart: TableGradients
) -> Tensor:
    """As `linear_nll`; what the first table's gradient is made of goes to `apart`."""
    dtype = compute_dtype(hidden_NC)
    flat = [tensor for table in tables for tensor in table]
    with torch.autocast(hidden_NC.device.type, enabled=False):
        nll_N: Tensor = _StreamedNll.apply(  # type: ignore[no-untyped-call]
            hidden_NC, targets_N, dtype, apart, *flat
        )
    return nll_N


@torch.no_grad()
def streamed_nats(hidden_NC: Tensor, targets_N: Tensor, tables: Sequence[Table]) -> Tensor:
    """As `linear_nll`, where no gradient is wanted: logits are in the cache alone."""
    dtype = compute_dtype(hidden_NC)
    exact = torch.promote_types(dtype, torch.float32)
    hidden, index_N = hidden_NC.to(dtype), targets_N.clamp_min(0)
    largest_N = hidden.new_full((len(hidden),), torch.finfo(exact).min, dtype=exact)
    total_N, chosen_N = torch.zeros_like(largest_N), torch.zeros_like(largest_N)
    with torch.autocast(hidden.device.type, enabled=False):
        for weight_WC, bias_W, words in pieces([x for table in tables for x in table], dtype):
            for rows in runs(len(hidden), size=_READ_ROWS):
                logits = torch.addmm(bias_W, hidden[rows], weight_WC.t())
                here = rows_K, _ = targets_among(index_N[rows], words)
                chosen_N[rows][rows_K] = logits[here].to(exact)
                larger_N = torch.maximum(largest_N[rows], logits.amax(dim=1))
                total_N[rows] *= (largest_N[rows] - larger_N).exp_()
                total_N[rows] += exponentials(logits, larger_N).sum(dim=1)
                largest_N[rows] = larger_N
    return (total_N.log_() - chosen_N.sub_(largest_N)).masked_fill_(targets_N == IGNORED, 0)


class _StreamedNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        targets_N: Tensor,
        dtype: torch.dtype,
        apart: TableGradients,
        *tables: Tensor,
    ) -> Tensor:
        """`[N]`."""
        hidden = hidden_NC.to(dtype)
        known_N, index_N = targets_N != IGNORED, targets_N.clamp_min(0)
        sums = _Sums(hidden)
        chosen_N, target_NC = torch.empty_like(sums.others_N), torch.empty_like(hidden)
        for weight_WC, bias_W, words in pieces(tables, dtype):
            logits = torch.addmm(bias_W, hidden, weight_WC.t())
            here = rows_K, at_K = targets_among(index_N, words)
            chosen_N[rows_K], target_NC[rows_K] = logits[here].to(sums.dtype), weight_WC[at_K]
            sums.rebase(logits.amax(dim=1))
            exp_NW = exponentials(logits, sums.largest_N)
            exp_NW[here] = 0
            sums.add(exp_NW, weight_WC, with_gram=words.start < len(tables[0]))
        chosen_N -= sums.largest_N
        total_N = sums.others_N + chosen_N.exp()
        sums.hidden_NC.addcmul_(sums.others_N[:, None], target_NC, value=-1)
        ctx.save_for_backward(
            hidden,
            index_N,
            known_N / total_N,
            sums.largest_N,
            sums.others_N,
            sums.gram(),
            sums.hidden_NC,
            *tables,
        )
        ctx.apart, ctx.hidden_dtype = apart, hidden_NC.dtype
        ctx.parameters = tables[:2]  # themselves: under checkpointing what is saved comes as others
        return (total_N.log() - chosen_N).masked_fill_(~known_N, 0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of the hidden states, and of each table but the first."""
        hidden, index_N, share_N, largest_N, others_N, gram_NN, grad_NC, *tables = ctx.saved_tensors
        tables[:2] = ctx.parameters
        scale_N = grads[0] * share_N
        first = 0
        of_tables: list[Tensor | None] = []
        for weight_VC, bias_V in zip(tables[::2], tables[1::2], strict=True):
            product = Product(
                table_VC=weight_VC,
                bias_V=bias_V,
                hidden_NC=hidden,
                scale_N=scale_N,
                index_N=index_N - first,
                largest_N=largest_N,
                others_N=others_N,
                gram_NN=gram_NN,
            )
            if first == 0:
                ctx.apart.add_product(product)
                of_tables += [None, None]
            else:
                of_words, of_biases = product.of_run(slice(0, len(bias_V)))
                of_tables += [of_words.to(weight_VC.dtype), of_biases.to(bias_V.dtype)]
            first += len(bias_V)
        of_hidden_NC = (grad_NC * scale_N[:, None]).to(ctx.hidden_dtype)
        return of_hidden_NC, None, None, None, *of_tables


class _Sums:
    """Over the words that went by, of each row's exponentials less the largest logit so far."""

    def __init__(self, hidden: Tensor) -> None:
        n_rows = len(hidden)
        self.dtype = torch.promote_types(hidden.dtype, torch.float32)
        lowest = torch.finfo(self.dtype).min  # words may be ruled out by a bias of -inf
        self.largest_N = hidden.new_full((n_rows,), lowest, dtype=self.dtype)
        self.others_N = torch.zeros_like(self.largest_N)
        self.hidden_NC = torch.zeros_like(hidden, dtype=self.dtype)
        self._gram_NN = hidden.new_zeros(n_rows, n_rows, dtype=self.dtype)

    def rebase(self, largest_N: Tensor) -> None:
        """Have this much taken off all logits, if it is more than was."""
        largest_N = torch.maximum(self.largest_N, largest_N)
        factor_N = (self.largest_N - largest_N).exp_()
        self.largest_N = largest_N
        self.others_N *= factor_N
        self.hidden_NC *= factor_N[:, None]
        self._gram_NN *= factor_N.outer(factor_N)

    def add(self, exp_NW: Tensor, weight_WC: Tensor, *, with_gram: bool) -> None:
        """Take the exponentials of some words, those of targets being zero."""
        self.others_N += exp_NW.sum(dim=1)
        exp_NW = exp_NW.to(weight_WC.dtype)
        self.hidden_NC += exp_NW @ weight_WC
        if with_gram:
            for rows in _halves(len(exp_NW)):  # it is symmetric
                self._gram_NN[rows, : rows.stop] += exp_NW[rows] @ exp_NW[: rows.stop].t()

    def gram(self) -> Tensor:
        """The products of rows of exponentials with each other, `[N, N]`."""
        return self._gram_NN.tril() + self._gram_NN.tril(-1).t()


def _halves(n: int) -> list[slice]:
    """Halve many rows: two products take a quarter less than one; thirds would save little."""
    half = n // 32 * 16
    return [slice(0, half), slice(half, n)] if half > 32 else [slice(0, n)]
