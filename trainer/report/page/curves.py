"""The curves of a run: loss and perplexity, learning rate, gradient norm, loss scale, speed."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.report.history import Columns, History
from trainer.report.page.decimation import Curve, decimate
from trainer.report.page.svg import COLOURS, Picture, draw
from trainer.wording import human_count

Array = npt.NDArray[Any]

#: Sizes in the page's pixels: across the page, across a narrow screen, and one of several.
WIDE, NARROW, SMALL = (760, 300), (350, 240), (350, 190)
#: A loss this many times as far from the least as the first one is drawn at the upper edge.
_HEADROOM = 1.2

#: What a curve may be drawn against, and how that is called.
AXES = {"step": "step", "tokens": "tokens trained on", "hours": "hours of training"}

#: A tick stands on the lower edge: its size in pixels, and its middle as a share of the height.
TICK_SIZE, _TICK_PLACE = 16, 0.035

#: Events that are marked on curves: how they are drawn, and what they mean.
MARKS = {
    "resume": ("mark", (0, (4, 3)), "resumed from a checkpoint"),
    "rollback": ("bad", "solid", "rolled back after losses that were not finite"),
    "spike": ("bad", (0, (1, 2)), "loss far above the usual"),
    "skip": ("bad", None, "update skipped"),
    "nonfinite": ("bad", None, "loss not finite"),
}


class Panel(NamedTuple):
    """A small picture of one metric."""

    metric: str
    title: str
    unit: str
    is_log: bool = False


PANELS = (
    Panel("optim/lr", "Learning rate", ""),
    Panel("optim/grad_norm", "Gradient norm", ""),
    Panel("optim/loss_scale", "Loss scale", "", is_log=True),
    Panel("throughput/tokens_per_s", "Throughput", "tokens/s"),
    Panel("throughput/mfu", "MFU", "of the peak"),
    Panel("memory/peak_gib", "Memory at its peak", "GiB"),
)


def loss_picture(history: History, *, axis: str, name: str, n_bins: int) -> Picture | None:
    """Return the picture of training and validation losses by `axis`; None without losses."""
    parts = {part: _losses(history, part, axis) for part in ("train", "valid")}
    if not any(len(curve.x) for curve in parts.values()):
        return None
    top = _top([curve.y for curve in parts.values() if len(curve.y)])

    def fill(axes: Any) -> None:
        _draw_marks(axes, history, axis)
        for (part, curve), colour in zip(parts.items(), ("c1", "c2"), strict=True):
            _draw_loss(axes, curve, part=part, colour=COLOURS[colour], top=top, n_bins=n_bins)
        _finish_losses(axes, top=top, axis=axis)

    title = f"Loss and perplexity by {AXES[axis]}"
    about = "; ".join(
        f"{'training' if part == 'train' else 'validation'} loss from {curve.y[0]:.4f} to "
        f"{curve.y[-1]:.4f} nats per token, at least {curve.y.min():.4f}"
        for part, curve in parts.items()
        if len(curve.y)
    )
    wide, narrow = (
        draw(fill, name=f"{name}-{axis}-{kind}", size=size, title=title, about=about)
        for kind, size in (("w", WIDE), ("n", NARROW))
    )
    return Picture(title=title, about=about, wide=wide, narrow=narrow)


def drawn_of(history: History) -> frozenset[str]:
    """Return what pictures of losses hold: train, valid, and above where losses are cut off."""
    parts = {part: _losses(history, part, "step").y for part in ("train", "valid")}
    known = {part: y for part, y in parts.items() if len(y)}
    top = _top(list(known.values())) if known else 0.0
    return frozenset(known) | {"above" for y in known.values() if (y > top).any()}


def panel_pictures(history: History, *, name: str, n_bins: int) -> list[Picture]:
    """Return a small picture for each metric of `PANELS` that the run has and that changes."""
    pictures = []
    for number, panel in enumerate(PANELS):
        places, values = history.train.metric(panel.metric)
        if len(values) < 2 or (panel.metric == "optim/loss_scale" and np.ptp(values) == 0):
            continue
        curve = decimate(history.train.step[places], values, n_bins=n_bins)
        pictures.append(_panel(panel, curve, history, name=f"{name}-p{number}"))
    return pictures


def overlay_picture(runs: Sequence[tuple[History, str]], *, axis: str, name: str) -> Picture | None:
    """Return the losses of several runs in one picture, each in the colour that is given."""
    n_bins = max(60, 600 // max(1, len(runs)))
    curves = [
        (colour, {part: _losses(history, part, axis) for part in ("train", "valid")})
        for history, colour in runs
    ]
    values = [curve.y for _, parts in curves for curve in parts.values() if len(curve.y)]
    if not values:
        return None
    top = _top(values)

    def fill(axes: Any) -> None:
        for colour, parts in curves:
            for part, curve in parts.items():
                _draw_loss(axes, curve, part=part, colour=COLOURS[colour], top=top, n_bins=n_bins)
        _finish_losses(axes, top=top, axis=axis)

    title = f"Losses of {len(runs)} runs by {AXES[axis]}"
    about = "lines are training losses, lines with dots are validation losses"
    wide, narrow = (
        draw(fill, name=f"{name}-{axis}-{kind}", size=size, title=title, about=about)
        for kind, size in (("w", WIDE), ("n", NARROW))
    )
    return Picture(title=title, about=about, wide=wide, narrow=narrow)


def places_on(history: History, columns: Columns, axis: str) -> Array:
    """Return where each record stands on an axis."""
    if axis == "hours":
        return history.hours(columns)
    return columns.step if axis == "step" else columns.tokens


def marks_of(history: History) -> dict[str, list[int]]:
    """Return the steps of the events that curves mark, by the event's name."""
    return {
        name: steps
        for name in MARKS
        if (steps := [e["step"] for e in history.events if e["event"] == name])
    }


def _losses(history: History, part: str, axis: str) -> Curve:
    columns = history.train if part == "train" else history.valid
    places, losses = columns.metric(f"{part}/loss")
    x = places_on(history, columns, axis)[places].astype(np.float64)
    return Curve(np.maximum.accumulate(x) if len(x) else x, losses)


def _top(values: Sequence[Array]) -> float:
    """Return the greatest loss that is drawn to scale."""
    low = min(float(part.min()) for part in values)
    usual = max(max(float(part[0]), float(np.quantile(part, 0.99))) for part in values)
    greatest = max(float(part.max()) for part in values)
    return min(greatest, low + _HEADROOM * (usual - low)) if usual > low else greatest


def _draw_loss(axes: Any, curve: Curve, *, part: str, colour: str, top: float, n_bins: int) -> None:
    thin = decimate(curve.x, curve.y, n_bins=n_bins)
    style = {"marker": "o", "markersize": 3.5} if part == "valid" and len(thin.x) < 60 else {}
    width = 1.8 if part == "valid" else 1.1
    axes.plot(thin.x, np.minimum(thin.y, top), color=colour, linewidth=width, **style)
    above = thin.y > top
    if above.any():
        edge = np.full(int(above.sum()), top)
        axes.plot(thin.x[above], edge, "^", color=COLOURS["bad"], markersize=5, clip_on=False)


def _finish_losses(axes: Any, *, top: float, axis: str) -> None:
    low, _ = axes.get_ylim()
    axes.set_ylim(low, top + 0.03 * max(top - low, 1e-9))
    axes.set_xlabel(AXES[axis])
    axes.set_ylabel("loss, nats per token")
    axes.margins(x=0.01)
    _count_ticks(axes.xaxis)
    right = axes.twinx()
    right.grid(False)
    right.spines["right"].set_visible(False)
    right.set_ylim(axes.get_ylim())
    ticks = _perplexity_ticks(*axes.get_ylim())
    right.set_yticks(np.log(ticks), [human_count(tick) for tick in ticks])
    right.tick_params(length=0, labelcolor=COLOURS["quiet"])
    right.set_title("ppl", loc="right", color=COLOURS["quiet"], fontsize="medium")


def _perplexity_ticks(low: float, high: float) -> list[float]:
    """Return round perplexities between two losses, far enough apart to be read."""
    chosen: list[float] = []
    for exponent in range(int(min(low, 300) / np.log(10)), int(min(high, 600) / np.log(10)) + 1):
        for digit in (1, 1.5, 2, 3, 5, 7):
            tick = digit * 10.0**exponent
            if not low < np.log(tick) < high:
                continue
            if not chosen or np.log(tick / chosen[-1]) > (high - low) / 9:
                chosen.append(tick)
    return chosen


def _draw_marks(axes: Any, history: History, axis: str) -> None:
    step = history.train.step
    if not len(step):
        return
    where = places_on(history, history.train, axis)
    transform = axes.get_xaxis_transform()
    for name, steps in marks_of(history).items():
        colour, line, _ = MARKS[name]
        x = np.unique(np.interp(np.unique(steps), step, where))
        if line is None:
            height = np.full(len(x), _TICK_PLACE)
            style = {"markersize": TICK_SIZE, "markeredgewidth": 1.5}
            axes.plot(x, height, "|", color=COLOURS[colour], transform=transform, **style)
            continue
        for place in x[-200:]:
            axes.axvline(place, color=COLOURS[colour], linestyle=line, linewidth=1)


def _panel(panel: Panel, curve: Curve, history: History, *, name: str) -> Picture:
    """Return the picture of one metric by step."""

    def fill(axes: Any) -> None:
        """Draw the metric, and mark its axes in its own units."""
        axes.plot(curve.x, curve.y, color=COLOURS["c1"], linewidth=1.1)
        if panel.is_log and curve.y.min() > 0:
            axes.set_yscale("log", base=2)
        else:
            axes.set_ylim(bottom=0)
        if panel.metric == "optim/lr":
            axes.yaxis.set_major_formatter(lambda value, place: f"{value:.2g}")
        axes.set_xlabel("step")
        axes.set_ylabel(panel.unit)
        axes.margins(x=0.02)
        _count_ticks(axes.xaxis)
        if panel.metric == "throughput/tokens_per_s":
            _count_ticks(axes.yaxis)

    told = human_count if panel.metric == "throughput/tokens_per_s" else "{:.4g}".format
    low, high, last = (told(float(y)) for y in (curve.y.min(), curve.y.max(), curve.y[-1]))
    about = f"between {low} and {high} {panel.unit}".rstrip() + f", {last} at the end"
    svg = draw(fill, name=name, size=SMALL, title=panel.title, about=about)
    return Picture(title=panel.title, about=about, wide=svg)


def _count_ticks(axis: Any) -> None:
    axis.set_major_locator(import_module("matplotlib.ticker").MaxNLocator(nbins=6))
    axis.set_major_formatter(lambda value, place: human_count(value))
