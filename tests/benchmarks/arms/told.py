"""A comparison of arms as table, JSON and picture; the first of a size is the others' measure."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from arms.tuned import Tuned
from matplotlib.figure import Figure

HEAD = (
    "| size | arm | parameters | rate | valid loss | of seeds | at the rates beside | "
    "less than the first | of seeds | CPU s | tokens to the first's loss | CPU s |"
)


def by_size(tuned: Sequence[Tuned]) -> Iterator[tuple[str, list[Tuned]]]:
    """Yield each size with its arms, in the order in which they were named."""
    for size, of in groupby(tuned, key=lambda one: one.arm.size):
        yield size, list(of)


def table(tuned: Sequence[Tuned]) -> str:
    """Return a Markdown table."""
    rows = [HEAD, "|" + "---|" * HEAD.count(" | ") + "---|"]
    for size, (first, *others) in by_size(tuned):
        rows += [_row(size, one, first) for one in (first, *others)]
    return "\n".join(rows) + "\n"


def gains(one: Tuned, first: Tuned) -> list[float]:
    """Return by how many nats an arm is better than the first, seed by seed."""
    return [of - its for of, its in zip(first.best.losses, one.best.losses, strict=True)]


def _row(size: str, one: Tuned, first: Tuned) -> str:
    rates = list(one.rates)
    place = rates.index(one.rate)
    beside = ", ".join(
        f"{rate:g}: {one.rates[rate].loss:.3f}" for rate in (rates[place - 1], rates[place + 1])
    )
    by_seed = gains(one, first)
    spent = one.spent_to(first.best.loss)
    total = first.points[-1]
    cells = [
        size,
        f"`{one.arm.name}`",
        f"{one.arm.n_parameters:,}",
        f"{one.rate:g}",
        f"**{one.best.loss:.3f}**",
        f"{min(one.best.losses):.3f}–{max(one.best.losses):.3f}",
        beside,
        f"{first.best.loss - one.best.loss:+.3f}",
        f"{min(by_seed):+.3f} to {max(by_seed):+.3f}",
        f"{one.best.cpu_s:.0f}",
        f"{spent.n_tokens:,.0f} ({spent.n_tokens / total.n_tokens:.2f})" if spent else "more",
        f"{spent.cpu_s:.0f} ({spent.cpu_s / total.mean.cpu_s:.2f})" if spent else "more",
    ]
    return f"| {' | '.join(cells)} |"


def as_json(one: Tuned) -> dict[str, Any]:
    """Return everything of an arm that a later reader may want to draw."""
    return {
        "size": one.arm.size,
        "arm": one.arm.name,
        "words": list(one.arm.words),
        "parameters": one.arm.n_parameters,
        "rate": one.rate,
        "rates": {f"{rate:g}": mean._asdict() for rate, mean in one.rates.items()},
        "lengths": {str(point.n_tokens): point.mean._asdict() for point in one.points},
    }


def plot(tuned: Sequence[Tuned], file: Path) -> None:
    """Draw, for each size, the loss against the rate, and the best rate's against the tokens."""
    sizes = list(by_size(tuned))
    figure = Figure(figsize=(11, 4 * len(sizes)), layout="constrained")
    rows = figure.subplots(len(sizes), 2, squeeze=False)
    for (of_rate, of_tokens), (size, arms) in zip(rows, sizes, strict=True):
        for one in arms:
            label = one.arm.name.replace("$", r"\$")
            _draw(of_rate, list(one.rates), [mean.losses for mean in one.rates.values()], label)
            _draw(
                of_tokens,
                [point.n_tokens for point in one.points],
                [point.mean.losses for point in one.points],
                label,
            )
        of_rate.set(title=f"{size}, all tokens", xlabel="peak learning rate")
        of_tokens.set(title=f"{size}, complete runs", xlabel="tokens")
        top = max(one.points[0].mean.loss for one in arms) + 0.1  # a rate may have diverged
        rates = {rate for one in arms for rate in one.rates}
        lengths = {point.n_tokens for one in arms for point in one.points}
        for axes, places in ((of_rate, sorted(rates)), (of_tokens, sorted(lengths))):
            axes.set(xscale="log", ylabel="loss (nats per token)")
            axes.set_ylim(top=top)
            axes.set_xticks(places, [f"{place:,}" for place in places])
            axes.minorticks_off()
        of_tokens.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file)


def _draw(axes: Any, places: list[Any], losses: list[tuple[float, ...]], label: str) -> None:
    """Draw means as a line, and between the seeds' extremes a shade."""
    (line,) = axes.plot(places, [sum(of) / len(of) for of in losses], "o-", label=label)
    axes.fill_between(
        places, list(map(min, losses)), list(map(max, losses)), alpha=0.2, color=line.get_color()
    )
