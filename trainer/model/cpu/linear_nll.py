"""Nats of words under a softmax over linear logits, keeping one matrix for the backward pass.

`F.cross_entropy(F.linear(…))` writes three `[N, V]` matrices: the logits, their logarithms and the
gradient. Here a block of rows goes from logits to errors while it lies in the cache: the error of a
word is its probability, less 1 for the target. The errors are all that the backward pass needs.
Where the gradients are smaller than the matrix of errors, the forward pass computes the gradients
of the sum of all nats, a block of rows at a time, and keeps no errors.

N positions · C width · V words.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.model.adaptive import Table
from trainer.model.backend import compute_dtype
from trainer.model.cpu.word_runs import runs, word_runs
from trainer.model.tied_embedding import Handoff
from trainer.protocol import IGNORED

#: Logits computed at a time: as many as a core's cache holds.
_BLOCK_LOGITS = 1 << 21
#: Rows at a time where the forward pass computes the gradients.
_MADE_ROWS = 256


def linear_nll(
    hidden_NC: Tensor,
    targets_N: Tensor,
    tables: Sequence[Table],
    *,
    handoff: Handoff | None = None,
    cluster: int = 0,
) -> Tensor:
    """Return the nats of each target, `[N]` in fp32 at least; 0 where it is `IGNORED`.

    Args:
        hidden_NC: hidden states, of which the logits are a linear function.
        targets_N: indices into the words of all tables, counted in the order of the tables.
        tables: tables whose words share one softmax.
        handoff: takes the gradient of the first table's weight.
        cluster: the number of the first table in `handoff`.
    """
    dtype = compute_dtype(hidden_NC)
    flat = [tensor for table in tables for tensor in table]
    with torch.autocast(hidden_NC.device.type, enabled=False):
        nll_N: Tensor = _LinearNll.apply(  # type: ignore[no-untyped-call]
            hidden_NC, targets_N, dtype, handoff, cluster, *flat
        )
    return nll_N


def pieces(tables: Sequence[Tensor], dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, slice]]:
    """Yield the weight and bias of some words in `dtype`, and their place among all words.

    Converting one piece at a time saves memory: the tables are most of a model, and a converted
    copy of one is never whole.
    """
    first = 0
    for weight, bias in zip(tables[::2], tables[1::2], strict=True):
        for words in word_runs(weight):
            there = slice(first + words.start, first + words.stop)
            yield weight[words].to(dtype), bias[words].to(dtype), there
        first += len(weight)


class _LinearNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        targets_N: Tensor,
        dtype: torch.dtype,
        handoff: Handoff | None,
        cluster: int,
        *tables: Tensor,
    ) -> Tensor:
        """Return the nats of each target, `[N]`."""
        hidden = hidden_NC.to(dtype)
        known_N, index_N = targets_N != IGNORED, targets_N.clamp_min(0)
        makes = _gradient_is_smaller(hidden, tables[0])
        error_NV = hidden.new_empty(0 if makes else len(hidden), _n_words(tables))
        ctx.made = None
        if makes:
            nll_N, ctx.made = _nats_and_gradients(hidden, index_N, known_N, tables)
            share_N = torch.empty_like(nll_N)
        else:
            nll_N, total_N = _nats(hidden, index_N, tables, error_NV)
            share_N = known_N / total_N
        ctx.save_for_backward(hidden, index_N, known_N, error_NV, share_N, *tables)
        ctx.handoff, ctx.cluster, ctx.hidden_dtype = handoff, cluster, hidden_NC.dtype
        return nll_N.masked_fill_(~known_N, 0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of the hidden states, then of each table's weight and bias."""
        hidden, index_N, known_N, error_NV, share_N, *tables = ctx.saved_tensors
        (grad_N,) = grads
        made, ctx.made = ctx.made, None  # scaled in place, and so good for one backward pass
        if made is not None and bool((grad_N == grad_N[0]).all()):
            made.scale_(grad_N[0])
        else:
            if len(error_NV) < len(hidden):
                error_NV = hidden.new_empty(len(hidden), _n_words(tables))
                share_N = known_N / _nats(hidden, index_N, tables, error_NV)[1]
            made = _Gradients.unwritten(hidden, tables)
            _write(made, hidden, error_NV, grad_N * share_N, tables)
        if ctx.handoff is not None:
            made.weights_VC[0] = ctx.handoff.put(ctx.cluster, made.weights_VC[0])
        of_tables = [x for pair in zip(made.weights_VC, made.biases_V, strict=True) for x in pair]
        return made.hidden_NC.to(ctx.hidden_dtype), None, None, None, None, *of_tables


class _Gradients(NamedTuple):
    """The gradients that a backward pass returns."""

    hidden_NC: Tensor
    weights_VC: list[Tensor | None]
    biases_V: list[Tensor]

    @classmethod
    def unwritten(cls, hidden: Tensor, tables: Sequence[Tensor]) -> "_Gradients":
        """Return gradients of the right shapes whose values are still to be written."""
        return cls(
            torch.empty_like(hidden, dtype=torch.promote_types(hidden.dtype, torch.float32)),
            [torch.empty_like(weight_VC) for weight_VC in tables[::2]],
            [torch.empty_like(bias_V) for bias_V in tables[1::2]],
        )

    def scale_(self, factor: Tensor) -> None:
        """Multiply all gradients by a factor, in place."""
        for grad in (self.hidden_NC, *self.weights_VC, *self.biases_V):
            assert grad is not None
            grad.mul_(factor)


def _gradient_is_smaller(hidden: Tensor, weight_VC: Tensor) -> bool:
    """Return whether a table's gradient takes less memory than the errors of all rows."""
    return hidden.nbytes > weight_VC[0].nbytes * weight_VC.shape[1]


def _nats_and_gradients(
    hidden: Tensor, index_N: Tensor, known_N: Tensor, tables: Sequence[Tensor]
) -> tuple[Tensor, _Gradients]:
    """Return the nats of all rows, and the gradients of their sum.

    Errors are computed and used for a few rows at a time.
    """
    made = _Gradients.unwritten(hidden, tables)
    nll_N = torch.empty_like(made.hidden_NC[:, 0])
    tables = [tensor.to(hidden.dtype) for tensor in tables]  # once for all rows
    parts = runs(len(hidden), size=_MADE_ROWS)
    error_NV = hidden.new_empty(parts[0].stop, _n_words(tables))
    for rows in parts:
        here_NV = error_NV[: rows.stop - rows.start]
        nll_N[rows], total_N = _nats(hidden[rows], index_N[rows], tables, here_NV)
        of_rows = made._replace(hidden_NC=made.hidden_NC[rows])
        share_N = known_N[rows] / total_N
        _write(of_rows, hidden[rows], here_NV, share_N, tables, adds=rows.start > 0)
    return nll_N, made


def _nats(
    hidden: Tensor, index_N: Tensor, tables: Sequence[Tensor], error_NV: Tensor
) -> tuple[Tensor, Tensor]:
    """Return nats and the softmax's total of each row; write errors times total to `error_NV`."""
    n_rows, n_words = len(hidden), _n_words(tables)
    nll_N = hidden.new_empty(n_rows, dtype=torch.promote_types(hidden.dtype, torch.float32))
    total_N = torch.ones_like(nll_N)
    # A small table stays in the cache for all blocks of rows; a large one is best read only once.
    is_small = n_words * hidden.shape[1] <= 2 * _BLOCK_LOGITS
    small = list(pieces(tables, hidden.dtype)) if is_small else None
    for rows in _blocks(n_rows, n_words, size=_BLOCK_LOGITS * (1 if is_small else 8)):
        logits = error_NV[rows]
        for weight, bias, words in small or pieces(tables, hidden.dtype):
            torch.addmm(bias, hidden[rows], weight.t(), out=logits[:, words])
        for block in _blocks(len(logits), n_words, size=_BLOCK_LOGITS):
            these = slice(rows.start + block.start, rows.start + block.stop)
            nll_N[these], total_N[these] = _errors(logits[block], index_N[these])
    return nll_N, total_N


def _write(
    grads: _Gradients,
    hidden: Tensor,
    error_NV: Tensor,
    scale_N: Tensor,
    tables: Sequence[Tensor],
    *,
    adds: bool = False,
) -> None:
    """Write gradients computed from the errors of `_nats`, each row times its scale.

    With `adds`, the gradients of tables are added to those already in `grads`.
    """
    scale_N1 = scale_N[:, None]
    scaled_NC, narrow_N1 = (hidden * scale_N1).to(hidden.dtype), scale_N1.to(hidden.dtype)
    grads.hidden_NC.zero_()
    first = 0
    for weight_VC, bias_V, of_weight_VC, of_bias_V in zip(
        tables[::2], tables[1::2], grads.weights_VC, grads.biases_V, strict=True
    ):
        assert of_weight_VC is not None
        for weight_WC, _, words in pieces((weight_VC, bias_V), hidden.dtype):
            error_NW = error_NV[:, first + words.start : first + words.stop]
            grads.hidden_NC.add_(error_NW @ weight_WC)
            _put_product(of_weight_VC[words], error_NW.t(), scaled_NC, adds=adds)
            _put_product(of_bias_V[words, None], error_NW.t(), narrow_N1, adds=adds)
        first += len(bias_V)
    grads.hidden_NC.mul_(scale_N1)


def _put_product(out: Tensor, left: Tensor, right: Tensor, *, adds: bool) -> None:
    """Write the product of two matrices to `out`, or with `adds` add the product to it."""
    if out.dtype == left.dtype:
        torch.addmm(out, left, right, beta=int(adds), out=out)
    elif adds:
        out += left @ right
    else:
        out.copy_(left @ right)


def _n_words(tables: Sequence[Tensor]) -> int:
    return sum(map(len, tables[::2]))


def _errors(logits: Tensor, index_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nats and the softmax's total of each row.

    In place of the logits come the errors times the total: exponentials, less the total at targets.
    """
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    exact.sub_(exact.amax(dim=1, keepdim=True))
    chosen_N = exact.gather(1, index_N[:, None])[:, 0]
    total_N = exact.exp_().sum(dim=1)
    exact.scatter_add_(1, index_N[:, None], -total_N[:, None])
    if exact is not logits:
        logits.copy_(exact)
    return total_N.log() - chosen_N, total_N


def _blocks(n_rows: int, n_words: int, *, size: int) -> list[slice]:
    """Return the rows in blocks of at most `size` logits, but of 16 rows at least."""
    return runs(n_rows, size=max(16, size // n_words))
