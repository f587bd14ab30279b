"""Thinning curves so that no extreme is lost: a spike of one step stays to be seen."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """Points of a curve, by ascending x."""

    x: Floats
    y: Floats


def decimate(x: npt.NDArray[Any], y: npt.NDArray[Any], *, n_bins: int) -> Curve:
    """Return at most 4·`n_bins` points: of each bin the first, the last, the least, the greatest.

    Bins are equally wide in x.

    Args:
        x: places, ascending.
        y: values, finite.
        n_bins: the number of bins, such as the pixels of a picture.
    """
    if len(x) <= 4 * n_bins:
        return Curve(x.astype(np.float64), y.astype(np.float64))
    borders = np.linspace(float(x[0]), float(x[-1]), n_bins + 1)[1:-1]
    bounds = np.unique([0, *np.searchsorted(x, borders), len(x)])
    kept: list[int] = []
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        part = y[begin:end]
        kept += [begin, begin + int(part.argmin()), begin + int(part.argmax()), end - 1]
    places = np.unique(kept)
    return Curve(x[places].astype(np.float64), y[places].astype(np.float64))
