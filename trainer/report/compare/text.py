"""A comparison as text for people, and as JSON for programs."""

import math
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

from trainer.report.compare.curves import Aligned, Axis, Parting, aligned, parting
from trainer.report.compare.evaluations import Compared, Difference, compare
from trainer.report.compare.facts import Differing, Row, differing, vocabulary_hash
from trainer.report.summary import ReadRun
from trainer.report.table import names_of
from trainer.shell import command, program
from trainer.track.record.metrics import strict_json
from trainer.track.tables import text_table
from trainer.wording import human_count, printable

#: The fields of a measure in JSON.
_MEASURE = (
    *("corpus", "corpus_hash", "split", "split_hash"),
    *("precision", "rule", "settings", "method"),
)


class Comparison(NamedTuple):
    """All that is said of two or more runs; the first is what others are compared with."""

    names: list[str]
    axis: Axis
    facts: Differing
    train: Aligned
    valid: Aligned
    partings: list[tuple[Parting, Parting]]
    """For each other run where training and validation losses part from the first run's."""
    evaluations: list[Compared]
    warnings: list[str]


def comparison(runs: Sequence[ReadRun], *, axis: Axis) -> Comparison:
    """Return the comparison of runs along an axis."""
    first, *others = runs
    histories = [run.history for run in runs]
    return Comparison(
        names=names_of(runs),
        axis=axis,
        facts=differing(runs),
        train=aligned(histories, axis=axis, part="train"),
        valid=aligned(histories, axis=axis, part="valid"),
        partings=[
            (
                parting(first.history, other.history, part="train"),
                parting(first.history, other.history, part="valid"),
            )
            for other in others
        ],
        evaluations=[compare(first, other) for other in others],
        warnings=_warnings(runs),
    )


def told(compared: Comparison, runs: Sequence[ReadRun]) -> str:
    """Return the comparison as text."""
    letters = letters_of(len(compared.names))
    parts = ["\n".join(f"{a} = {name}" for a, name in zip(letters, compared.names, strict=True))]
    parts += [f"warning: {warning}" for warning in compared.warnings]
    facts = compared.facts
    for title, rows in (
        ("settings", facts.settings),
        ("versions", facts.versions),
        ("text and model", facts.text),
    ):
        parts.append(_facts(title, rows, letters))
    parts += [f"not read: {printable(note)}" for note in facts.notes]
    for letter, pair in zip(letters[1:], compared.partings, strict=True):
        parts.append("\n".join(_partings(letters[0], letter, pair)))
    for title, curves in (("training loss", compared.train), ("validation loss", compared.valid)):
        if curves.places:
            parts.append(_curves(title, curves, letters, compared.axis))
    for number, found in enumerate(compared.evaluations, start=1):
        parts.append(_evaluations(found, runs[0], runs[number], letters[0], letters[number]))
    return "\n\n".join(parts)


def to_json(compared: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON values; what is not finite is None."""
    letters = letters_of(len(compared.names))
    facts = compared.facts
    return {
        "runs": dict(zip(letters, compared.names, strict=True)),
        "warnings": compared.warnings,
        "settings": {row.name: row.values for row in facts.settings},
        "versions": {row.name: row.values for row in facts.versions},
        "text": {row.name: row.values for row in facts.text},
        "notes": facts.notes,
        "axis": compared.axis,
        "train": strict_json(compared.train._asdict()),
        "valid": strict_json(compared.valid._asdict()),
        "first_difference": {
            letter: {
                part: strict_json(found._asdict())
                for part, found in zip(("train", "valid"), pair, strict=True)
            }
            for letter, pair in zip(letters[1:], compared.partings, strict=True)
        },
        "evaluations": {
            letter: {
                "differences": [_difference_json(d) for d in found.differences],
                "not_compared": found.reasons,
            }
            for letter, found in zip(letters[1:], compared.evaluations, strict=True)
        },
    }


def letters_of(n_runs: int) -> list[str]:
    """Return a short name for each run: A, B, … and after Z numbers."""
    letters = string.ascii_uppercase
    return [letters[i] if i < len(letters) else f"run {i + 1}" for i in range(n_runs)]


def _warnings(runs: Sequence[ReadRun]) -> list[str]:
    """Return why losses of these runs do not compare at all."""
    hashes = {vocabulary_hash(run) for run in runs} - {None}
    if len(hashes) > 1:
        return [
            "the vocabularies differ: nats per token do not compare, only ppl_word and bpc of the "
            "same text do"
        ]
    return []


def _facts(title: str, rows: Sequence[Row], letters: Sequence[str]) -> str:
    if not rows:
        return f"{title}: the same"
    table = [["", *letters], *([row.name, *row.values] for row in rows)]
    return f"{title} that differ\n{text_table(table)}"


def _partings(one: str, other: str, pair: tuple[Parting, Parting]) -> list[str]:
    lines = []
    for part, found in zip(("training", "validation"), pair, strict=True):
        if not found.n_common:
            lines.append(f"{part} losses of {one} and {other}: no record of the same steps")
        elif found.step is None:
            lines.append(
                f"{part} losses of {one} and {other} are equal at all {found.n_common:,} steps "
                "that both recorded"
            )
        else:
            lines.append(
                f"{part} losses of {one} and {other} first differ at step {found.step:,}: "
                f"{found.before:.9g} and {found.after:.9g}"
            )
    return lines


def _curves(title: str, curves: Aligned, letters: Sequence[str], axis: Axis) -> str:
    heads = [axis, *letters, *(f"{letter} − {letters[0]}" for letter in letters[1:])]
    rows = [heads]
    for place, losses in zip(curves.places, curves.losses, strict=True):
        at = {"step": f"{place:,.0f}", "tokens": human_count(place), "hours": f"{place:.3g}"}[axis]
        gaps = [f"{loss - losses[0]:+.4f}" for loss in losses[1:]]
        rows.append([at, *(f"{loss:.4f}" for loss in losses), *gaps])
    how = ", the mean since the row above" if title.startswith("training") else ""
    return f"{title} (nats per token{how})\n{text_table(rows)}"


def _evaluations(found: Compared, first: ReadRun, other: ReadRun, one: str, its: str) -> str:
    lines = []
    for difference in found.differences:
        lines.append(f"{difference.before}")
        lines.append(f"  {difference_text(difference, one=one, other=its)}")
        if difference.interval is None:
            lines.append("  no interval: single tokens of both were not filed")
    lacking = [d.before for d in found.differences if d.interval is None and not d.before.method]
    for split in dict.fromkeys(result.split for result in lacking):
        lengths = sorted({r.settings.mem_len or 0 for r in lacking if r.split == split})
        for path in dict.fromkeys((first.path, other.path)):
            words = ["eval", str(path), "--split", str(split)]
            words += ["--mem-len", ",".join(map(str, lengths)), "--per-token"]
            lines.append(f"for intervals: {command(program('txl'), *words)}")
    lines += [printable(reason) for reason in found.reasons]
    if not lines:
        lines = [f"{one} and {its} have no evaluation of the same measure: see txl eval --help"]
    return "\n".join(lines)


def difference_text(difference: Difference, *, one: str, other: str) -> str:
    """Return a difference in one line, with its interval if it has one."""
    before, after = difference.before.loss, difference.after.loss
    found = difference.interval
    line = f"{one} {before:.6f}, {other} {after:.6f}, {other} − {one} {difference.nats:+.6f} nats"
    if found is not None:
        line += (
            f" (95 % interval {found.low:+.6f} to {found.high:+.6f}: paired, blocks of "
            f"{found.block:,} tokens)"
        )
    try:
        ratio = math.exp(difference.nats)
    except OverflowError:
        return line
    return f"{line}; ppl × {ratio:.4f}"


def _difference_json(difference: Difference) -> dict[str, Any]:
    found = difference.interval
    return {
        "of": difference.before.model_dump(mode="json", include={*_MEASURE}),
        "losses": [difference.before.loss, difference.after.loss],
        "nats": difference.nats,
        "interval": None if found is None else [found.low, found.high],
        "block": None if found is None else found.block,
    }
