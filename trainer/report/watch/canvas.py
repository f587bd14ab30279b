"""A curve of dots for a terminal: each character holds two columns and four rows of them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

#: Bits of a character's dots, by row and column (Unicode's braille patterns).
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_EMPTY = 0x2800


def dots(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], *, width: int, height: int
) -> list[str]:
    """Return the lines of a picture of a curve; each column spans the least to the greatest.

    A column without a value lies on the straight line between its neighbours.

    Args:
        x: places, ascending; at least one.
        y: values, finite.
        width: characters of a line.
        height: lines.
    """
    n_columns, n_rows = 2 * width, 4 * height
    low, high = float(y.min()), float(y.max())
    span = high - low or 1.0
    reach = float(x[-1] - x[0]) or 1.0
    column = np.minimum(n_columns - 1, ((x - x[0]) / reach * n_columns).astype(int))
    row = np.minimum(n_rows - 1, ((high - y) / span * n_rows).astype(int))
    cells = np.full((height, width), _EMPTY)
    between = np.interp(np.arange(n_columns), column, row).astype(int)
    top, bottom = between.copy(), between
    np.minimum.at(top, column, row)
    np.maximum.at(bottom, column, row)
    for place in range(column[-1] + 1):
        if place > 0:  # each column touches the one before
            top[place] = min(top[place], bottom[place - 1] + 1)
            bottom[place] = max(bottom[place], top[place - 1] - 1)
        for at in range(top[place], bottom[place] + 1):
            cells[at // 4, place // 2] |= _DOTS[at % 4][place % 2]
    return ["".join(map(chr, line)) for line in cells.tolist()]


def stars(values: Sequence[float], *, width: int, height: int) -> list[str]:
    """Return the lines of a picture as `dots` makes it, in ASCII for terminals without Unicode."""
    y = np.array(values, np.float64)
    x = np.arange(len(y), dtype=np.float64)
    return [
        "".join(" " if ord(c) == _EMPTY else "*" for c in line)
        for line in dots(x, y, width=width, height=height)
    ]
