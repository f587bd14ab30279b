"""The events of a run as sentences. `metrics.jsonl` has their details as values."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from trainer.track.record.meanings import EVERY_RECORD
from trainer.track.record.records import Record
from trainer.wording import counted, printable, shortened

_Details = Mapping[str, Any]


def sentence(event: str, details: _Details, *, step: int) -> str:
    """Return what happened at `step`; an event without a sentence is told by its values."""
    say = _SENTENCES.get(event)
    if say is None:
        return f"{event} at step {step:,}{told(details)}"
    return say(f"step {step:,}", details)


def event_sentence(record: Record, *, most: int) -> str:
    """Return the sentence of an event that was read from a file, in one escaped line.

    Details of any kind are told: where a sentence cannot be made of them, by their values.
    `most` is the number of characters beyond which the middle is left out.
    """
    details = {n: v for n, v in record.items() if n not in EVERY_RECORD and n != "event"}
    event, step = record["event"], record["step"]
    try:
        said = sentence(event, details, step=step)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        said = f"{event} at step {step:,}: {shortened(details)}"
    return printable(said, most=most)


def told(details: _Details) -> str:
    """Return the details that have a value as `` key=value``, one after the other."""
    shown = {key: value for key, value in details.items() if value not in (None, [])}
    return "".join(f" {key}={_value(value)}" for key, value in shown.items())


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def _start(at: str, details: _Details) -> str:
    parent = details.get("parent")
    return f"training starts with {'new weights' if parent is None else f'the weights of {parent}'}"


def _resume(at: str, details: _Details) -> str:
    said = f"training goes on from {at}"
    if details.get("path") is not None:
        said += f", checkpoint {details['path']}"
    if details.get("parent") is not None:
        said += f", begun from {details['parent']}"
    skipped = details.get("skipped") or []
    if skipped:
        newer = counted(len(skipped), "newer checkpoint")
        said += f"; passed over {newer}: {'; '.join(map(str, skipped))}"
    changes = details.get("changes") or []
    if changes:
        fields = (f"{c['field']} is {c['after']}, was {c['before']}" for c in changes)
        said += f"; changed: {', '.join(fields)}"
    return said


def _skip(at: str, details: _Details) -> str:
    scale = details.get("loss_scale")
    said = f"{at} left the weights as they were: its gradients were not finite"
    return said if scale in (None, 1.0) else f"{said}; the loss scale is {scale:,g} now"


def _nonfinite(at: str, details: _Details) -> str:
    said = f"the loss of step {_number(details.get('bad_step'))} was not finite{_where(details)}"
    in_a_row = details.get("in_a_row") or 1
    return said if in_a_row == 1 else f"{said}; {in_a_row:,} steps in a row"


def _rollback(at: str, details: _Details) -> str:
    is_spike = details.get("cause") == "spike"
    why = "stayed far above the usual" if is_spike else f"stayed not finite{_where(details)}"
    return (
        f"went back to {details.get('path')}, since losses {why}: "
        "training goes on from there, with the text after the bad one"
    )


def _stop(at: str, details: _Details) -> str:
    reason = details.get("reason")
    return f"training ends at {at}" + ("" if reason == "done" else f": {reason}")


def _where(details: _Details) -> str:
    ranks, streams = (", ".join(map(str, details.get(key) or "?")) for key in ("ranks", "streams"))
    return f" (rank {ranks}, stream {streams})"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _loss(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float | int) else "?"


_SENTENCES: dict[str, Callable[[str, _Details], str]] = {
    "start": _start,
    "resume": _resume,
    "checkpoint": lambda at, details: f"the checkpoint of {at} is saved: {details.get('path')}",
    "checkpoint_failed": lambda at, details: (
        f"the checkpoint of {at} could not be saved, training goes on: {details.get('error')}"
    ),
    "skip": _skip,
    "spike": lambda at, details: (
        f"the loss jumped up to {_loss(details.get('loss'))} at step "
        f"{_number(details.get('bad_step'))}; of the steps before the median is "
        f"{_loss(details.get('median'))}, and up to {_loss(details.get('limit'))} is usual"
    ),
    "nonfinite": _nonfinite,
    "rollback": _rollback,
    "profile": lambda at, details: (
        f"the profiled steps are in {details.get('path')}: open it in {details.get('opens_in')}"
    ),
    "expectation": lambda at, details: (
        f"the run misses what --expect asked for: {'; '.join(map(str, details.get('missed', [])))}"
    ),
    "untracked": lambda at, details: (
        f"from {at} on wandb no longer tracks this run: {details.get('reason')}"
    ),
    "stop": _stop,
}
