"""Lengths that change while a run trains: schedules, and the stages that they make together.

A schedule is a list of [step, value]: from that step of the text on the value holds. Steps are
counted as the text is read, and not as updates are made, for an update that is skipped must not
move the text.
"""

from itertools import pairwise
from typing import NamedTuple

Schedule = tuple[tuple[int, int], ...]


class Lengths(NamedTuple):
    """The lengths of a step: the tokens read of every stream, and those that memory holds."""

    tgt_len: int
    """Tokens of a segment."""
    mem_len: int
    """Tokens of memory."""
    bptt_segments: int
    """Segments of a step; an epoch's last step has those that are left."""


class Stage(NamedTuple):
    """The steps of the text from `first_step` on, up to the next stage."""

    first_step: int
    lengths: Lengths


def problem(schedule: Schedule, *, largest: int, least: int) -> str | None:
    """Return what is wrong with a schedule of a field whose value is `largest`; None if nothing."""
    steps, values = [step for step, _ in schedule], [value for _, value in schedule]
    if not schedule or steps[0] != 0:
        return "begins with [0, value]"
    if any(after <= before for before, after in pairwise(steps)):
        return "has steps that grow"
    if min(values) < least:
        return f"has values of at least {least}"
    if max(values) != largest:
        return f"has {largest}, the field's own value, as its largest"
    return None


def stages(tgt_len: Schedule, mem_len: Schedule, bptt_segments: Schedule) -> tuple[Stage, ...]:
    """Return the stages of three schedules, in order; the first begins with step 0."""
    schedules = tgt_len, mem_len, bptt_segments
    steps = sorted({step for schedule in schedules for step, _ in schedule})
    return tuple(Stage(step, Lengths(*(_at(one, step) for one in schedules))) for step in steps)


def _at(schedule: Schedule, step: int) -> int:
    return [value for first, value in schedule if first <= step][-1]
