"""Finding where in the text a run was at a step, from its records alone.

The position of a step is a pure function of the step, until a rollback goes past some text. After
a resume or a rollback steps are done again, by a later attempt.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trainer.errors import InputError
from trainer.track.record.records import METRICS_FILE, Record, whole_records

_BEGIN = ("start", "resume", "rollback")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An attempt at a run, as its records tell."""

    number: int
    begins_at: int
    """The step from which it went on; its first is the one after."""
    data_step: int
    """The position in the text of its first step."""
    last: int
    """The last step of which something is recorded."""
    by_rollback: bool
    """True if it began with a rollback, and so with memories that had read nothing."""
    from_weights: bool
    """True if it began with the weights of another run."""
    losses: dict[int, float | None]
    """The recorded losses, each the mean since the record before."""

    def data_step_of(self, step: int) -> int:
        """Return the position in the text of a step."""
        return self.data_step + step - 1 - self.begins_at

    def did(self, step: int) -> bool:
        """Return whether something is recorded of a step, or of a later one."""
        return self.begins_at < step <= self.last


class Place(NamedTuple):
    """The place of a run in the text at a step."""

    step: int
    attempt: Attempt
    attempts: tuple[Attempt, ...]
    """All attempts of the run, ascending."""

    @property
    def data_step(self) -> int:
        """Return the position in the text."""
        return self.attempt.data_step_of(self.step)

    @property
    def others(self) -> list[int]:
        """Return the other attempts that did the step, and may have read another text."""
        return [a.number for a in self.attempts if a.did(self.step) and a is not self.attempt]


def attempts_of(run_dir: Path) -> tuple[Attempt, ...]:
    """Return a run's attempts, ascending.

    Raises:
        InputError: the run has no records that can be read.
    """
    path = run_dir / METRICS_FILE
    if not path.is_file():
        raise InputError(f"{run_dir}: no {METRICS_FILE} there; give the directory of a run")
    by_attempt: dict[int, list[Record]] = {}
    for record in whole_records(path):
        by_attempt.setdefault(record["attempt"], []).append(record)
    found: list[Attempt] = []
    for number, records in sorted(by_attempt.items()):
        begin = next((r for r in records if r.get("event") in _BEGIN), None)
        step = begin["step"] if begin is not None else _least(records, found)
        found.append(
            Attempt(
                number=number,
                begins_at=step,
                data_step=_position(begin, step, found),
                last=max(r["step"] for r in records),
                from_weights=begin is not None and begin.get("parent") is not None,
                by_rollback=begin is not None and begin["event"] == "rollback",
                losses={r["step"]: r.get("train/loss") for r in records if r["kind"] == "train"},
            )
        )
    if not found:
        raise InputError(f"{path}: nothing is recorded there")
    return tuple(found)


def _least(records: list[Record], before: list[Attempt]) -> int:
    """Return from where an attempt went on if the record of that is lost."""
    return min(r["step"] for r in records) - 1 if before else 0


def _position(begin: Record | None, step: int, before: list[Attempt]) -> int:
    """Return where an attempt begins in the text; older records do not say it themselves."""
    said = None if begin is None else begin.get("data_step")
    if isinstance(said, int) and 0 <= said < 1 << 62:
        return said
    earlier = next((a for a in reversed(before) if a.begins_at <= step <= a.last), None)
    return step if earlier is None else earlier.data_step_of(step + 1)


def place_of(run_dir: Path, *, step: int, attempt: int | None) -> Place:
    """Return where a run was at a step, in the last attempt that did it or in the one named.

    Raises:
        InputError: no attempt did the step, or not the one named.
    """
    attempts = attempts_of(run_dir)
    there = [a for a in attempts if a.did(step)]
    if not there:
        last = max(a.last for a in attempts)
        raise InputError(f"--step {step:,} is not recorded: {run_dir} has steps 1 to {last:,}")
    if attempt is None:
        return Place(step, there[-1], attempts)
    for one in there:
        if one.number == attempt:
            return Place(step, one, attempts)
    known = ", ".join(str(a.number) for a in there)
    raise InputError(f"--attempt {attempt} did not do step {step:,}: give one of {known}")
