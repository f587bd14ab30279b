"""Findings of checks, told as rows of a table for people and as JSON."""

import json
from collections.abc import Sequence

from trainer.conformance.checks import CHECKS, Checked
from trainer.conformance.trainings import TRAININGS
from trainer.wording import printable

_SHOWN = 400


def row(checked: Checked) -> str:
    """Return a check's row; below it the input for which it does not hold, and why it matters."""
    width = max(map(len, (*CHECKS, *TRAININGS)))
    if checked.excused:
        return f"{checked.name:{width}}  not asked: {checked.excused}"
    if checked.finding is None:
        return f"{checked.name:{width}}  holds"
    lines = [checked.finding.input, checked.finding.seen, f"why it matters: {checked.why}"]
    return "\n".join(
        [f"{checked.name:{width}}  DOES NOT HOLD"]
        + [f"{'':{width}}  {printable(line, most=_SHOWN)}" for line in lines]
    )


def summary(results: Sequence[Checked]) -> str:
    """Return the last line of the table."""
    wrong = [checked.name for checked in results if not checked.holds]
    if not wrong:
        n_excused = sum(bool(checked.excused) for checked in results)
        asked = f", {n_excused} was not asked" if n_excused else ""
        return f"all {len(results) - n_excused} checks hold{asked}"
    return f"{len(wrong)} of {len(results)} checks do not hold: {', '.join(wrong)}"


def as_json(results: Sequence[Checked]) -> str:
    """Return the checks as JSON."""
    checks = [
        {
            "name": checked.name,
            "holds": checked.holds,
            "input": None if checked.finding is None else checked.finding.input,
            "seen": None if checked.finding is None else checked.finding.seen,
            "why": checked.why,
            "excused": checked.excused or None,
        }
        for checked in results
    ]
    return json.dumps({"holds": all(one.holds for one in results), "checks": checks}, indent=2)
