"""The difference of two runs' evaluations, of which only equal measures compare.

What does not compare is named: another text, another vocabulary, other lengths, another rule.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.errors import InputError
from trainer.report.compare.bootstrap import Interval, interval
from trainer.report.summary import ReadRun
from trainer.track.run_files.results import EvalResult
from trainer.track.run_files.token_files import read_tokens


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of two results of one measure."""

    before: EvalResult
    after: EvalResult
    nats: float
    """The later loss less the earlier one."""
    interval: Interval | None
    """None where single tokens of both were not filed."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The evaluations of two runs that compare, and why the others do not."""

    differences: list[Difference]
    reasons: list[str]


def compare(before: ReadRun, after: ReadRun) -> Compared:
    """Return the differences of two runs' newest results of each measure."""
    ones, others = (_newest(run.summary.evals) for run in (before, after))
    differences, reasons = [], []
    for key, one in ones.items():
        other = others.get(key)
        if other is None:
            continue
        if _vocabularies_differ(one, other):
            reasons.append(f"{one.source}: other vocabularies, so nats per token do not compare")
        elif one.loss is not None and other.loss is not None:
            differences.append(_difference(before, one, after, other, reasons))
    for key, one in ones.items():
        if key in others:
            continue
        rivals = [other for own, other in others.items() if own not in ones]
        nearest = min(rivals, key=lambda other: len(_unlike(one, other)), default=None)
        if nearest is not None and one.split == nearest.split:
            reasons.append(f"{one.split} is not compared: {'; '.join(_unlike(one, nearest))}")
    return Compared(differences=differences, reasons=list(dict.fromkeys(reasons)))


def _difference(
    before: ReadRun, one: EvalResult, after: ReadRun, other: EvalResult, reasons: list[str]
) -> Difference:
    found: Interval | None = None
    mine, its = None, None
    try:
        mine, its = read_tokens(before.path, one), read_tokens(after.path, other)
    except InputError as error:
        reasons.append(f"no interval: {error}")
    if mine is not None and its is not None:
        if all(np.array_equal(mine[name], its[name]) for name in ("position", "token")):
            nats = [part["nats"].astype(np.float64) for part in (mine, its)]
            found = interval(nats[1] - nats[0])
        else:
            reasons.append(f"{one.source}: no interval, since other tokens were scored")
    assert one.loss is not None
    assert other.loss is not None
    mean = other.loss - one.loss if found is None else found.mean
    return Difference(before=one, after=other, nats=mean, interval=found)


def _newest(results: Iterable[EvalResult]) -> dict[tuple[object, ...], EvalResult]:
    newest: dict[tuple[object, ...], EvalResult] = {}
    for result in sorted(results, key=lambda result: (result.step or 0, result.date or "")):
        newest[result.key] = result
    return newest


def _vocabularies_differ(one: EvalResult, other: EvalResult) -> bool:
    known = one.vocabulary_hash, other.vocabulary_hash
    return None not in known and known[0] != known[1]


def _unlike(one: EvalResult, other: EvalResult) -> list[str]:
    """Return in what two measures differ, most important first."""
    found = []
    if _vocabularies_differ(one, other):
        found.append("other vocabularies, so nats per token do not compare")
    pairs: Sequence[tuple[str, object, object]] = (
        ("text", one.source, other.source),
        ("counted", one.rule, other.rule),
        ("precision", one.precision, other.precision),
        ("read", str(one.method or "plain"), str(other.method or "plain")),
        *((n, cell, other.settings.cells()[n]) for n, cell in one.settings.cells().items()),
    )
    for name, mine, its in pairs:
        if mine != its:
            found.append(f"{name} {mine or '?'}, not {its or '?'}")
    if one.split_hash != other.split_hash and one.source == other.source:
        found.append("its content differs")
    return found
