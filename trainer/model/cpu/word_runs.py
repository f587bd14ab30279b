"""Tables some words at a time."""

import math

from torch import Tensor

#: Elements of a piece of a table, and words: what a core's cache holds of it and of its logits.
_PIECE, _PIECE_WORDS = 1 << 21, 4096


def runs(n: int, *, size: int) -> list[slice]:
    """`n` in runs of `size` at most, or 16, each a multiple of 16; the last is what is left.

    They are equal, if that takes less than twice as many: products of few different sizes are few
    programs for oneDNN to make, and to keep, half a MiB each.
    """
    n_runs = max(1, math.ceil(n / max(16, size)))
    equal = (k for k in range(n_runs, 2 * n_runs) if n % (16 * k) == 0)
    length = max(16, 16 * math.ceil(n / next(equal, n_runs) / 16))
    return [slice(low, min(low + length, n)) for low in range(0, n, length)]


def piece_words(width: int) -> int:
    """Return how many words of a table a piece has, if it has as many."""
    return min(_PIECE_WORDS, _PIECE // width)


def word_runs(table_VC: Tensor) -> list[slice]:
    """A table's words in runs, each a piece."""
    n_words, width = table_VC.shape
    return runs(n_words, size=piece_words(width))
