"""A thinned curve keeps every extreme, its ends and its order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.report.page.decimation import decimate


@given(
    st.lists(st.floats(-1e9, 1e9, width=32), min_size=1, max_size=400),
    st.integers(1, 20),
    st.integers(0, 2**32 - 1),
)
def test_least_and_greatest_of_every_part_stay(values: list[float], n_bins: int, seed: int) -> None:
    y = np.array(values)
    x = np.sort(np.random.default_rng(seed).integers(0, 10_000, len(y)))
    thin = decimate(x, y, n_bins=n_bins)
    assert len(thin.x) <= max(len(y), 4 * n_bins)
    assert (np.diff(thin.x) >= 0).all()
    assert (thin.x[0], thin.y[0], thin.x[-1], thin.y[-1]) == (x[0], y[0], x[-1], y[-1])
    assert {*zip(thin.x.tolist(), thin.y.tolist(), strict=True)} <= {
        *zip(x.tolist(), y.tolist(), strict=True)
    }
    assert (thin.y.min(), thin.y.max()) == (y.min(), y.max())


def test_a_spike_of_one_step_in_a_million_stays_and_little_else() -> None:
    y = np.zeros(1_000_000)
    y[654_321] = 9.0
    thin = decimate(np.arange(len(y)), y, n_bins=700)
    assert thin.y.max() == 9.0
    assert thin.x[thin.y.argmax()] == 654_321
    assert len(thin.x) <= 2800
