"""Curves of the loss by position that evaluations of runs have filed."""

from typing import NamedTuple

from trainer.report.summary import ReadRun
from trainer.track.run_files.results import EvalResult


class Curve(NamedTuple):
    """The loss by position of one evaluation."""

    label: str
    places: list[float]
    """The middle of each bin, on a scale of logarithms: tokens read before."""
    losses: list[float]


def curves_of(run: ReadRun) -> list[Curve]:
    """Return a run's curves of the text whose loss by position was filed last, the oldest first."""
    filed = sorted(
        (result for result in run.summary.evals if result.by_position is not None),
        key=lambda result: result.date or "",
    )
    newest = [result for result in filed if _over(result) == _over(filed[-1])]
    return [curve for curve in map(_curve, newest) if curve.losses]


def _over(result: EvalResult) -> tuple[object, ...]:
    """Return over what the means of a curve are."""
    assert result.by_position is not None
    windows = result.by_position
    return result.source, windows.window_tokens, windows.n_windows


def _curve(result: EvalResult) -> Curve:
    assert result.by_position is not None
    known = [(part, part.loss) for part in result.by_position.bins if part.loss is not None]
    step = "?" if result.step is None else f"{result.step:,}"
    mem_len = result.settings.mem_len
    return Curve(
        label=f"step {step}, mem_len {'?' if mem_len is None else f'{mem_len:,}'}",
        places=[max(1, part.low * part.high) ** 0.5 for part, _ in known],
        losses=[loss for _, loss in known],
    )
