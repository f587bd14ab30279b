"""Gradients of the softmax's tables, of which no one needs the whole.

What the softmax has for a table is a product of its errors, which are made again some words at a
time; what an embedding tied to it has are rows. On one rank their norm follows from what the
forward pass summed up, and Adam takes the sum a piece at a time, while it lies in the cache. Whole,
the gradients of wt103-base's tables are 419 MiB, written once and read three times.

N rows of a product · C width · V words · W some of them · U those that the embedding looked up.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.model.word_runs import word_runs


class Product(NamedTuple):
    """The softmax's gradient of a table and its biases: its errors, times hidden states.

    A row's error is the exponential of each logit less the row's largest, but at the target the sum
    of all others, negative. That, times the row's scale, is the gradient of its logits. Logits made
    again may be rounded differently: what the errors are made of beside them is the forward's.
    """

    table_VC: Tensor
    bias_V: Tensor
    hidden_NC: Tensor
    """In the dtype of the products."""
    scale_N: Tensor
    index_N: Tensor
    """A row's target, or what is no word of the table."""
    largest_N: Tensor
    others_N: Tensor
    gram_NN: Tensor
    """The exponentials' products with each other, without targets."""

    def of_run(self, words: slice) -> tuple[Tensor, Tensor]:
        """Gradients of some words and of their biases, `[W, C]` and `[W]`."""
        dtype = self.hidden_NC.dtype
        weight_WC, bias_W = self.table_VC[words].to(dtype), self.bias_V[words].to(dtype)
        logits = torch.addmm(bias_W, self.hidden_NC, weight_WC.t())
        error_NW = exponentials(logits, self.largest_N)
        rows_K, at_K = targets_among(self.index_N, words)
        error_NW[rows_K, at_K] = -self.others_N[rows_K]
        scaled_NC = (self.hidden_NC * self.scale_N[:, None]).to(dtype)
        grad_WC = (error_NW.to(dtype).t() @ scaled_NC).to(self.scale_N.dtype)
        return grad_WC, error_NW.mul_(self.scale_N[:, None]).sum(dim=0)

    def weights_of(self, ids_U: Tensor) -> Tensor:
        """Gradients of any few words, without biases, `[U, C]`, in double precision."""
        is_target_NU = self.index_N[:, None] == ids_U
        others_N1 = self.others_N[:, None].double()
        error_NU = torch.where(is_target_NU, -others_N1, self._exponentials(ids_U))
        return error_NU.mul_(self.scale_N[:, None]).t() @ self.hidden_NC.double()

    def squared_norm(self) -> Tensor:
        """Return the squared norm of both gradients, in double precision.

        With errors E and hidden states H, beside them a column of ones for the biases, and rows
        scaled by s, that is sᵀ(EEᵀ ∘ HHᵀ)s. Of E = X - D, exponentials and what is taken off at
        targets, EEᵀ = XXᵀ - XDᵀ - DXᵀ + DDᵀ: the first is `gram_NN`; XDᵀ has row n's exponential at
        the target of row m, but none where that is n's own; DDᵀ has only rows of one target.
        """
        is_word_N = (self.index_N >= 0) & (self.index_N < len(self.table_VC))
        at_target_N = self.others_N.double() * is_word_N
        is_same_NN = self.index_N[:, None] == self.index_N
        at_targets_NN = self._exponentials(self.index_N.clamp(0, len(self.table_VC) - 1))
        at_targets_NN.masked_fill_(is_same_NN, 0).mul_(at_target_N)
        of_errors_NN = self.gram_NN - at_targets_NN - at_targets_NN.t()
        of_errors_NN += at_target_N.outer(at_target_N) * is_same_NN
        hidden_NC, scale_N = self.hidden_NC.double(), self.scale_N.double()
        of_hidden_NN = torch.addmm(scale_N.new_ones(()), hidden_NC, hidden_NC.t())
        return scale_N @ (of_errors_NN * of_hidden_NN) @ scale_N

    def _exponentials(self, ids_U: Tensor) -> Tensor:
        """As `gram_NN` is made of, in double precision: oneDNN would keep a program for each U.

        None is far above one, as none is there, even where rounding makes large logits larger.
        """
        dtype = self.hidden_NC.dtype
        weight_UC, bias_U = self.table_VC[ids_U].to(dtype), self.bias_V[ids_U].to(dtype)
        logits = torch.addmm(bias_U.double(), self.hidden_NC.double(), weight_UC.double().t())
        return exponentials(logits.to(dtype), self.largest_N).to(dtype).double().clamp_max_(2)


def targets_among(index_N: Tensor, words: slice) -> tuple[Tensor, Tensor]:
    """Rows whose target is one of these words, and which of them."""
    at_N = index_N - words.start
    rows_K = ((at_N >= 0) & (at_N < words.stop - words.start)).nonzero()[:, 0]
    return rows_K, at_N[rows_K]


def exponentials(logits: Tensor, taken_off_N: Tensor) -> Tensor:
    """Return exponentials of logits less `shift`, in its dtype; in place, if that is theirs."""
    if logits.dtype == taken_off_N.dtype:
        return logits.sub_(taken_off_N[:, None]).exp_()
    return (logits - taken_off_N[:, None]).exp_()


class TableGradient:
    """Gradient of one table and its biases, from one backward pass."""

    def __init__(self) -> None:
        self._products: list[Product] = []
        self._rows: list[tuple[Tensor, Tensor]] = []

    @property
    def parameters(self) -> tuple[Tensor, Tensor]:
        """The table `[V, C]` and its biases `[V]`."""
        return self._products[0].table_VC, self._products[0].bias_V

    def add_product(self, product: Product) -> None:
        """Take the softmax's part."""
        self._products.append(product)

    def add_rows(self, ids_N: Tensor, rows_NC: Tensor) -> None:
        """Take the embedding's part."""
        self._rows.append((ids_N, rows_NC))

    @torch.no_grad()
    def pieces(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Some words at a time, with the gradients `[W, C]` of them and `[W]` of their biases.

        What was given may be overwritten, and the words' parameters, but no others.
        """
        table_VC, bias_V = self.parameters
        words_of_pieces = word_runs(table_VC)
        ids_U, rows_UC = self._summed_rows()
        starts = torch.tensor([words.start for words in words_of_pieces] + [len(table_VC)])
        bounds = pairwise(torch.searchsorted(ids_U, starts).tolist())
        for words, (low, high) in zip(words_of_pieces, bounds, strict=True):
            first, *others = (product.of_run(words) for product in self._products)
            grad_WC, of_bias_W = first[0].to(table_VC.dtype), first[1].to(bias_V.dtype)
            for of_words, of_biases in others:
                grad_WC += of_words
                of_bias_W += of_biases
            grad_WC[ids_U[low:high] - words.start] += rows_UC[low:high]
            yield words, grad_WC, of_bias_W

    @torch.no_grad()
    def squared_norm(self) -> Tensor:
        """Return the squared norm of the gradients; a scalar."""
        if len(self._products) > 1:
            squares = [x.square().sum() for _, *grads in self.pieces() for x in grads]
            return torch.stack(squares).sum()
        (product,) = self._products
        ids_U, rows_UC = self._summed_rows()
        both = (2 * product.weights_of(ids_U) + rows_UC) * rows_UC
        squared = product.squared_norm() + both.sum()
        return squared.clamp_min(0).to(rows_UC.dtype)  # rounding may leave less than nothing

    def _summed_rows(self) -> tuple[Tensor, Tensor]:
        """The embedding's words, ascending, and the sum of each one's rows."""
        like, _ = self.parameters
        none = (torch.empty(0, dtype=torch.int64), like.new_empty(0, like.shape[1]))
        ids_N, rows_NC = (torch.cat(parts) for parts in zip(none, *self._rows, strict=True))
        ids_U, of_row_N = ids_N.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        sums_UC = like.new_zeros(len(ids_U), like.shape[1])
        return ids_U, sums_UC.index_add_(0, of_row_N, rows_NC.to(like.dtype))


class TableGradients:
    """By table, what its gradient is made of, from a backward pass to the update after it."""

    def __init__(self) -> None:
        self._of_tables: dict[Tensor, TableGradient] = {}

    def __iter__(self) -> Iterator[TableGradient]:
        return iter(self._of_tables.values())

    def add_product(self, product: Product) -> None:
        """Take the softmax's part."""
        self._of_tables.setdefault(product.table_VC, TableGradient()).add_product(product)

    def add_rows(self, table_VC: Tensor, ids_N: Tensor, rows_NC: Tensor) -> bool:
        """Take the embedding's part, if the softmax's came."""
        if table_VC not in self._of_tables:
            return False
        self._of_tables[table_VC].add_rows(ids_N, rows_NC)
        return True

    @torch.no_grad()
    def join_wholes(self) -> None:
        """Add to the `grad` of tables and biases where one of the two has some of its own.

        Passes that share a backward may differ in which way a table's gradient goes, and a loss may
        have more terms. What is left here has its whole gradient here.
        """
        for gradient in list(self):
            parameters = gradient.parameters
            if all(parameter.grad is None for parameter in parameters):
                continue
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            for words, *grads in gradient.pieces():
                for parameter, grad in zip(parameters, grads, strict=True):
                    parameter.grad[words] += grad  # type: ignore[index]
            del self._of_tables[parameters[0]]

    def squared_norms(self) -> list[Tensor]:
        """Return the squared norms of each table's gradient with its biases'."""
        return [gradient.squared_norm() for gradient in self]

    def clear(self) -> None:
        """Forget all."""
        self._of_tables.clear()
