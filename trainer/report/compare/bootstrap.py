"""An interval for a mean difference of paired losses, whose neighbours in the text are alike.

Blocks of neighbouring differences are drawn with replacement, around the end to the beginning
(Politis and Romano 1992). How long a block is follows from how long differences stay alike (Politis
and White 2004, with the correction of Patton, Politis and White 2009).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Draws of an interval, the part of the draws that it holds, and the generator's seed.
N_DRAWS, COVERED, SEED = 2000, 0.95, 1111
#: With more blocks than this a draw costs more time, and tells no more.
_MOST_BLOCKS = 5000
#: Numbers that are drawn at a time.
_MOST_NUMBERS = 1 << 20
#: Blocks are so many times as long as is best for the variance, which makes intervals too short.
_LONGER = 2


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean of differences and the interval that holds the true one with probability `COVERED`."""

    mean: float
    low: float
    high: float
    block: int
    """Neighbouring differences that are drawn together."""


def interval(differences: Floats, *, n_draws: int = N_DRAWS, seed: int = SEED) -> Interval:
    """Return the mean of differences in the order of the text, and its interval.

    Args:
        differences: nats of one model less those of the other, per token; at least one.
        n_draws: the number of draws.
        seed: of the generator; the same seed gives the same interval.
    """
    n = len(differences)
    mean = math.fsum(differences.tolist()) / n
    block = min(n, max(_LONGER * block_length(differences), -(-n // _MOST_BLOCKS)))
    sums = np.concatenate([[0.0], np.cumsum(differences - mean)])
    twice = np.concatenate([sums, sums[1:] + sums[-1]])
    n_blocks = -(-n // block)
    rest = n - (n_blocks - 1) * block  # the last block of a draw may be shorter
    generator = np.random.default_rng(seed)
    means = np.empty(n_draws)
    at_once = max(1, _MOST_NUMBERS // n_blocks)
    for first in range(0, n_draws, at_once):
        starts = generator.integers(0, n, (min(at_once, n_draws - first), n_blocks))
        ends = starts + block
        ends[:, -1] += rest - block
        means[first : first + at_once] = (twice[ends] - twice[starts]).sum(axis=1) / n
    outside = (1 - COVERED) / 2
    low, high = np.quantile(means, [outside, 1 - outside]) * _widening(n / block)
    return Interval(mean=mean, low=mean + float(low), high=mean + float(high), block=block)


def _widening(n_blocks: float) -> float:
    """Return how much wider an interval is since few blocks tell their own spread badly.

    It is the quantile of Student's distribution over the normal one (Cornish and Fisher's series),
    and Bessel's correction.
    """
    freedom = max(1.0, n_blocks - 1)
    z = 1.96
    return (1 + (z**2 + 1) / (4 * freedom)) * math.sqrt((freedom + 1) / freedom)


def block_length(values: Floats) -> int:
    """Return how many neighbours are drawn together, so that the interval is about right."""
    n = len(values)
    most = max(1, min(n - 1, math.ceil(3 * math.sqrt(n)), math.ceil(n / 3)))
    covariances = _covariances(values, most)
    if n < 4 or covariances[0] <= 0:
        return 1
    near = _last_alike(covariances / covariances[0], n)
    lags = np.arange(-min(2 * near, most), min(2 * near, most) + 1)
    taper = np.clip(2 * (1 - np.abs(lags) / max(1, 2 * near)), 0, 1)
    weighted = taper * covariances[np.abs(lags)]
    spectrum, slope = weighted.sum(), (np.abs(lags) * weighted).sum()
    if spectrum <= 0:
        return 1
    length = (2 * slope**2 / (4 / 3 * spectrum**2)) ** (1 / 3) * n ** (1 / 3)
    return int(min(most, max(1, math.ceil(length))))


def _covariances(values: Floats, most: int) -> Floats:
    """Return the covariances of values with those 0 … `most` places later."""
    n = len(values)
    centred = values - values.mean()
    spectrum = np.fft.rfft(centred, 1 << (2 * n - 1).bit_length())
    covariances: Floats = np.fft.irfft(np.abs(spectrum) ** 2)[: most + 1] / n
    return covariances


def _last_alike(correlations: Floats, n: int) -> int:
    """Return the last lag before some lags in a row have no correlation to speak of."""
    in_a_row = max(5, math.ceil(math.sqrt(math.log10(n))))
    bound = 2 * math.sqrt(math.log10(n) / n)
    small = np.abs(correlations[1:]) < bound
    for lag in range(len(small) - in_a_row + 1):
        if small[lag : lag + in_a_row].all():
            return max(1, lag)
    large = np.flatnonzero(~small)
    return int(large[-1]) + 1 if len(large) else 1
