"""Gradients of tied tables, of which no one needs the whole.

What the softmax has for a table is a product of few rows, where few targets are its words; what the
embedding has are rows. On one rank their norm follows from those, and Adam takes the sum some words
at a time, while they lie in the cache. Whole, the gradients of wt103-base's tables are 419 MiB,
which would be written once and read three times.

N rows of a product · C width · V words · W some of them · U those that the embedding looked up.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: Elements of a table's gradient that are made at a time: what a core's cache holds.
_PIECE = 1 << 21


class Factors(NamedTuple):
    """A table's gradient as the product that it is."""

    error_NV: Tensor
    scaled_NC: Tensor

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.error_NV.nbytes + self.scaled_NC.nbytes

    @property
    def has_few_rows(self) -> bool:
        """Whether to multiply the rows with each other is about as quick as to make the product."""
        n_rows, width = self.scaled_NC.shape
        return 2 * n_rows <= 3 * width

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The gradient, `[V, C]`."""
        n_words, width = self.error_NV.shape[1], self.scaled_NC.shape[1]
        grad_VC = self.scaled_NC.new_empty(n_words, width, dtype=dtype)
        for words in runs(n_words, size=_PIECE // width):
            self.write(words, grad_VC[words])
        return grad_VC

    def write(self, words: slice, grad_WC: Tensor) -> None:
        """Put the gradient of some words there."""
        error_WN = self.error_NV[:, words].t()
        if grad_WC.dtype == error_WN.dtype:
            torch.mm(error_WN, self.scaled_NC, out=grad_WC)
        else:
            grad_WC.copy_(error_WN @ self.scaled_NC)

    def add(self, words: slice, grad_WC: Tensor) -> None:
        """Add the gradient of some words to what is there."""
        error_WN = self.error_NV[:, words].t()
        if grad_WC.dtype == error_WN.dtype:
            grad_WC.addmm_(error_WN, self.scaled_NC)
        else:
            grad_WC += error_WN @ self.scaled_NC

    def add_to(self, grad_VC: Tensor) -> None:
        """Add the gradient to another."""
        n_words, width = grad_VC.shape
        for words in runs(n_words, size=_PIECE // width):
            self.add(words, grad_VC[words])

    def squared_norm(self) -> Tensor:
        """Of the gradient, which is not made: with E of the errors, the sum of EEᵀ ∘ SSᵀ."""
        gram_NN = self.scaled_NC.new_zeros(2 * self.scaled_NC.shape[:1], dtype=self._wide)
        n_words, width = self.error_NV.shape[1], self.scaled_NC.shape[1]
        for words in runs(n_words, size=_PIECE // width):
            error_NW = self.error_NV[:, words]
            gram_NN += error_NW @ error_NW.t()
        scaled_NC = self.scaled_NC.to(self._wide)
        return (gram_NN * (scaled_NC @ scaled_NC.t())).sum()

    def of_words(self, ids_U: Tensor) -> Tensor:
        """The gradient of these words, `[U, C]`."""
        return (self.error_NV[:, ids_U].t() @ self.scaled_NC).to(self._wide)

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.scaled_NC.dtype, torch.float32)


class TableGradient:
    """What one table got in one backward pass."""

    def __init__(self, table_VC: Tensor) -> None:
        self._table_VC = table_VC
        self._products: list[Factors] = []
        self._rows: list[tuple[Tensor, Tensor]] = []

    def add_product(self, factors: Factors) -> None:
        """Take the softmax's part."""
        self._products.append(factors)

    def add_rows(self, ids_N: Tensor, rows_NC: Tensor) -> None:
        """Take the embedding's part."""
        self._rows.append((ids_N, rows_NC.to(self._table_VC.dtype)))

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """Some words at a time, and their gradient `[W, C]`, which the next one overwrites."""
        n_words, width = self._table_VC.shape
        words_of_pieces = runs(n_words, size=_PIECE // width)
        ids_U, rows_UC = self._summed_rows()
        starts = torch.tensor([words.start for words in words_of_pieces] + [n_words])
        bounds = pairwise(torch.searchsorted(ids_U, starts).tolist())
        buffer_WC = self._table_VC.new_empty(words_of_pieces[0].stop, width)
        for words, (low, high) in zip(words_of_pieces, bounds, strict=True):
            grad_WC = buffer_WC[: words.stop - words.start]
            first, *others = self._products
            first.write(words, grad_WC)
            for other in others:
                other.add(words, grad_WC)
            grad_WC[ids_U[low:high] - words.start] += rows_UC[low:high]
            yield words, grad_WC

    def squared_norm(self) -> Tensor:
        """Of the gradient; a scalar."""
        if len(self._products) > 1:
            squares = [grad_WC.square().sum() for _, grad_WC in self.pieces()]
            return torch.stack(squares).sum()
        (factors,) = self._products
        ids_U, rows_UC = self._summed_rows()
        missing = -len(ids_U) % 16  # see `runs`
        ids_U, rows_UC = F.pad(ids_U, (0, missing)), F.pad(rows_UC, (0, 0, 0, missing))
        both = (2 * factors.of_words(ids_U) + rows_UC) * rows_UC
        return factors.squared_norm() + both.sum()

    def _summed_rows(self) -> tuple[Tensor, Tensor]:
        """The embedding's words, ascending, and the sum of each one's rows."""
        like = self._table_VC
        none = (torch.empty(0, dtype=torch.int64), like.new_empty(0, like.shape[1]))
        ids_N, rows_NC = (torch.cat(parts) for parts in zip(none, *self._rows, strict=True))
        ids_U, of_row_N = ids_N.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        sums_UC = rows_NC.new_zeros(len(ids_U), rows_NC.shape[1])
        return ids_U, sums_UC.index_add_(0, of_row_N, rows_NC)


class TableGradients:
    """By table, what its gradient is made of, from a backward pass to the update after it."""

    def __init__(self) -> None:
        self._of_tables: dict[Tensor, TableGradient] = {}

    def __contains__(self, table_VC: Tensor) -> bool:
        return table_VC in self._of_tables

    def __getitem__(self, table_VC: Tensor) -> TableGradient:
        return self._of_tables[table_VC]

    def add_product(self, table_VC: Tensor, factors: Factors) -> bool:
        """Take the softmax's part, if it has few rows."""
        if factors.has_few_rows:
            of_table = self._of_tables.setdefault(table_VC, TableGradient(table_VC))
            of_table.add_product(factors)
        return factors.has_few_rows

    def add_rows(self, table_VC: Tensor, ids_N: Tensor, rows_NC: Tensor) -> bool:
        """Take the embedding's part, if the softmax's came."""
        if table_VC not in self:
            return False
        self[table_VC].add_rows(ids_N, rows_NC)
        return True

    def squared_norms(self) -> list[Tensor]:
        """Of each gradient that `grad` of its table has nothing of.

        Passes that share a backward may differ in which way a table's gradient goes: where some of
        it came as a whole, the rest joins that here.
        """
        for table_VC in [table for table in self._of_tables if table.grad is not None]:
            whole_VC: Any = table_VC.grad
            for words, grad_WC in self._of_tables.pop(table_VC).pieces():
                whole_VC[words] += grad_WC
        return [gradient.squared_norm() for gradient in self._of_tables.values()]

    def clear(self) -> None:
        """Forget all."""
        self._of_tables.clear()


def runs(n: int, *, size: int) -> list[slice]:
    """`n` in runs of `size` at most, or 16, each a multiple of 16; the last is what is left.

    They are equal, if that takes less than twice as many: products of few different sizes are few
    programs for oneDNN to make, and to keep, half a MiB each.
    """
    n_runs = max(1, math.ceil(n / max(16, size)))
    equal = (k for k in range(n_runs, 2 * n_runs) if n % (16 * k) == 0)
    length = max(16, 16 * math.ceil(n / next(equal, n_runs) / 16))
    return [slice(low, min(low + length, n)) for low in range(0, n, length)]
