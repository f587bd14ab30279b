"""Tables cut into runs of words that fit a core's cache."""

import math

from torch import Tensor

#: The most elements and words of a piece of a table: the cache holds the piece and its logits.
_PIECE, _PIECE_WORDS = 1 << 21, 4096


def runs(n: int, *, size: int) -> list[slice]:
    """Cut `n` into runs of at most `size`, but 16 at least; all are multiples of 16 but the last.

    The runs are equal if that takes less than twice as many: for each size of a product oneDNN
    makes, and keeps, a program of half a MiB.
    """
    n_runs = max(1, math.ceil(n / max(16, size)))
    equal = (k for k in range(n_runs, 2 * n_runs) if n % (16 * k) == 0)
    length = max(16, 16 * math.ceil(n / next(equal, n_runs) / 16))
    return [slice(low, min(low + length, n)) for low in range(0, n, length)]


def piece_words(width: int) -> int:
    """Return how many words a piece of a table has at most."""
    return min(_PIECE_WORDS, _PIECE // width)


def word_runs(table_VC: Tensor) -> list[slice]:
    """Return a table's words in runs of one piece each."""
    n_words, width = table_VC.shape
    return runs(n_words, size=piece_words(width))
