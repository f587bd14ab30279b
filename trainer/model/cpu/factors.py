"""A table's gradient as the product that it is.

N rows · C width · V words · W some of them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.model.word_runs import word_runs


class Factors(NamedTuple):
    """The softmax's errors, and the scaled hidden states that they multiply."""

    error_NV: Tensor
    scaled_NC: Tensor

    @property
    def nbytes(self) -> int:
        """Return the bytes of both factors."""
        return self.error_NV.nbytes + self.scaled_NC.nbytes

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The gradient, `[V, C]`."""
        n_words, width = self.error_NV.shape[1], self.scaled_NC.shape[1]
        grad_VC = self.scaled_NC.new_empty(n_words, width, dtype=dtype)
        for words in word_runs(grad_VC):
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
        for words in word_runs(grad_VC):
            self.add(words, grad_VC[words])
