"""Runs that differ in their seed alone, as one: the mean and the deviation of their results."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from trainer.errors import InputError
from trainer.report.compare.facts import text_facts
from trainer.report.published import PUBLISHED, Published
from trainer.report.settings import SEED, read_settings, recipe_differences
from trainer.report.summary import ReadRun, RunSummary
from trainer.track.measure import Measure
from trainer.track.run_files.results import EvalResult

#: What a row of results shows, and how many digits of each.
METRICS = {"loss": 4, "ppl": 2, "ppl_word": 2, "bpc": 4}
#: Settings that say how a run is watched and kept, on which no weight depends.
_WATCHING = (
    "source",
    "tracking.",
    "checkpoint.",
    "sample.",
    "limits.",
    "expect.",
    "eval.",
    "model.kernels",
    "model.activation_checkpointing",
    "train.cuda_graph",
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A mean of several runs."""

    mean: float
    deviation: float | None
    """The standard deviation of the runs, by n − 1; None for a single one."""
    n: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """Results of one measure."""

    name: str
    of: str
    """The measure in words."""
    figures: dict[str, Figure]
    source: str | None = None
    """Who published it; None for our own."""


@dataclass
class _Group:
    """Runs of one experiment and their results by measure."""

    runs: list[ReadRun] = field(default_factory=list)
    published: Published | None = None
    recipe: str | None = None


def rows_of(runs: Sequence[ReadRun]) -> list[Row]:
    """Return the rows of a table of results: a group's own, then what was published of its recipe.

    Runs that cannot be shown are left out.
    """
    groups: dict[tuple[object, ...], _Group] = {}
    for run in runs:
        if run.summary.error is None:
            key, recipe = _identity(run)
            group = groups.setdefault(key, _Group())
            group.runs.append(run)
            group.recipe = recipe
            group.published = PUBLISHED.get(recipe or "")
    rows, told = [], set()
    for group in groups.values():
        rows += _own_rows(group.runs)
        if group.published is not None and group.recipe not in told:
            told.add(group.recipe)
            rows.append(_published_row(group.recipe or "", group.published))
    return rows


def figure(values: Iterable[float]) -> Figure:
    """Return the mean of values, and their deviation if there are several."""
    known = list(values)
    mean = math.fsum(known) / len(known)
    if len(known) < 2:
        return Figure(mean=mean, deviation=None, n=1)
    variance = math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1)
    return Figure(mean=mean, deviation=math.sqrt(variance), n=len(known))


def group_name(names: Sequence[str]) -> str:
    """Return what the names of several runs have in common, or the first name."""
    if len(names) == 1:
        return names[0]
    first, last = min(names), max(names)
    n_alike = next((i for i, c in enumerate(first) if last[i : i + 1] != c), len(first))
    common = re.sub(r"[-_.\s]*(?:seed|s)?[-_.\s=]*$", "", first[:n_alike])
    return common or names[0]


def _identity(run: ReadRun) -> tuple[tuple[object, ...], str | None]:
    """Return what the runs of a group share, and their recipe if its network is unchanged."""
    if run.summary.imported is not None:
        return (str(run.path),), None
    try:
        settings = read_settings(run.path)
    except InputError:
        return (str(run.path),), None
    kept = {n: v for n, v in settings.items() if n != SEED and not n.startswith(_WATCHING)}
    recipe = recipe_differences(run.path, settings)
    same_network = not any(row.path.startswith("model.") for row in recipe.rows)
    text = text_facts(run)
    key = (*sorted(kept.items()), text.get("corpus"), text.get("precision"))
    return key, recipe.recipe if same_network else None


def _own_rows(runs: Sequence[ReadRun]) -> list[Row]:
    """Return a group's rows: its best validations, then its evaluations."""
    name = group_name([run.summary.run for run in runs])
    rows = []
    validated: dict[tuple[object, ...] | None, list[RunSummary]] = {}
    for run in runs:
        if run.summary.best_loss is not None:
            of = run.summary.best_of
            validated.setdefault(None if of is None else of.key, []).append(run.summary)
    for best in validated.values():
        of = best[0].best_of
        figures = {"loss": figure(run.best_loss for run in best if run.best_loss is not None)}
        ppl = [run.best_ppl for run in best if run.best_ppl is not None]
        figures |= {"ppl": figure(ppl)} if ppl else {}
        best_of = "best validation" if of is None else f"best validation, {_in_words(of)}"
        rows.append(Row(name=name, of=best_of, figures=figures))
    by_measure: dict[tuple[object, ...], list[EvalResult]] = {}
    for run in runs:
        newest: dict[tuple[object, ...], EvalResult] = {}
        for result in sorted(run.summary.evals, key=lambda r: (r.step or 0, r.date or "")):
            newest[result.key] = result
        for key, result in newest.items():
            by_measure.setdefault(key, []).append(result)
    for results in sorted(by_measure.values(), key=_order):
        known = {
            metric: [value for result in results if (value := getattr(result, metric)) is not None]
            for metric in METRICS
        }
        figures = {metric: figure(values) for metric, values in known.items() if values}
        rows.append(Row(name=name, of=_in_words(results[0]), figures=figures))
    return rows


def _order(results: Sequence[EvalResult]) -> tuple[object, ...]:
    lengths = results[0].settings
    method = "" if results[0].method is None else results[0].method.manner
    sizes = (lengths.mem_len or 0, lengths.tgt_len or 0)
    return results[0].source, results[0].rule or "", *sizes, method


def _in_words(of: Measure) -> str:
    lengths = of.settings
    parts = [f"{of.split or '?'} of {of.corpus or '?'}", f"mem_len {lengths.mem_len}"]
    parts += [f"tgt_len {lengths.tgt_len}"]
    if lengths.clamp_len is not None:
        parts.append(f"clamp_len {lengths.clamp_len}")
    if lengths.same_length:
        parts.append("same_length")
    if lengths.warm == "near":
        parts.append("warm near")
    if of.rule is not None and of.rule != "every token":
        parts.append(of.rule)
    if of.method is not None:
        parts.append(str(of.method))
    if of.precision is not None:
        parts.append(of.precision)
    return ", ".join(parts)


def _published_row(recipe: str, published: Published) -> Row:
    found = Figure(mean=published.mean, deviation=published.deviation, n=0)
    return Row(name=recipe, of="test", figures={published.metric: found}, source=published.by)
