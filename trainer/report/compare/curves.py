"""Curves of runs side by side: aligned by step, tokens or hours, and where they part."""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import numpy as np

from trainer.report.history import Columns, Floats, History

Axis = Literal["step", "tokens", "hours"]
Part = Literal["train", "valid"]

#: Rows of a table of aligned curves.
N_ROWS = 10


class Parting(NamedTuple):
    """The first step at which the losses of two runs differ, of those that both recorded."""

    n_common: int
    """Records of the same steps in both."""
    step: int | None
    """None if all are equal."""
    before: float
    after: float


class Aligned(NamedTuple):
    """Losses of runs at the same places; NaN where a run has none."""

    places: list[float]
    losses: list[list[float]]
    """For each place the loss of each run."""


def parting(before: History, after: History, *, part: Part) -> Parting:
    """Return the first step whose losses differ, to the last bit, between two runs.

    A record of training has the mean loss since the record before, so records at the same step are
    compared only if the ones before them are at the same step, too.
    """
    one, other = _columns(before, part), _columns(after, part)
    common, at_one, at_other = np.intersect1d(
        one.step, other.step, assume_unique=True, return_indices=True
    )
    if part == "train":
        same_stretch = _steps_before(before)[at_one] == _steps_before(after)[at_other]
        common, at_one, at_other = (x[same_stretch] for x in (common, at_one, at_other))
    losses = one.values[f"{part}/loss"][at_one], other.values[f"{part}/loss"][at_other]
    same = (losses[0] == losses[1]) | (np.isnan(losses[0]) & np.isnan(losses[1]))
    if same.all():
        return Parting(len(common), None, float("nan"), float("nan"))
    first = int(np.argmin(same))
    return Parting(
        len(common), int(common[first]), float(losses[0][first]), float(losses[1][first])
    )


def aligned(
    histories: Sequence[History], *, axis: Axis, part: Part, n_rows: int = N_ROWS
) -> Aligned:
    """Return the losses of runs at places that all of them reached, as far as they have any.

    Between two records a loss is interpolated. Training losses are means over the stretch before
    each place, since single records scatter.
    """
    curves = [_curve(history, axis, part) for history in histories]
    ends = [(float(x[0]), float(x[-1])) for x, _ in curves if len(x)]
    begin, end = max((b for b, _ in ends), default=0.0), min((e for _, e in ends), default=-1.0)
    if end < begin or len(ends) < len(curves):
        return Aligned([], [])
    places = np.unique(np.linspace(begin, end, n_rows))
    if axis != "hours":
        common = functools.reduce(np.intersect1d, (x for x, _ in curves))
        places = _nearest(common, places) if len(common) else np.unique(np.round(places))
    columns = [_at(x, y, places, smooth=part == "train") for x, y in curves]
    return Aligned(places.tolist(), np.stack(columns, axis=1).tolist())


def _nearest(common: Floats, places: Floats) -> Floats:
    """Return the places of records that are nearest to evenly spread ones."""
    after = np.minimum(np.searchsorted(common, places), len(common) - 1)
    before = np.maximum(after - 1, 0)
    is_before = places - common[before] < common[after] - places
    return np.unique(common[np.where(is_before, before, after)])


def _at(
    x: Floats,
    y: Floats,
    places: Floats,
    *,
    smooth: bool,
) -> Floats:
    if not smooth:
        return cast(Floats, np.interp(places, x, y))
    sums = np.concatenate([[0.0], np.cumsum(y)])
    ends = np.searchsorted(x, places, side="right")
    begins = np.concatenate([[0], ends[:-1]])
    begins = np.minimum(begins, np.maximum(0, ends - 1))
    return cast(Floats, (sums[ends] - sums[begins]) / np.maximum(1, ends - begins))


def _curve(history: History, axis: Axis, part: Part) -> tuple[Floats, Floats]:
    columns = _columns(history, part)
    places, losses = columns.metric(f"{part}/loss")
    along = history.hours(columns) if axis == "hours" else getattr(columns, axis)
    x = along[places].astype(np.float64)
    return (np.maximum.accumulate(x) if len(x) else x), losses


def _steps_before(history: History) -> Floats:
    """Return for each record of training the step after which its mean begins."""
    begins = (e["step"] for e in history.events if e["event"] in ("start", "resume"))
    return np.concatenate([[next(begins, 0)], history.train.step[:-1]])


def _columns(history: History, part: Part) -> Columns:
    return history.train if part == "train" else history.valid
