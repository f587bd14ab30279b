"""The results of a step when it was done again, held against what the run recorded of it."""

import math
from dataclasses import dataclass
from typing import Any

from trainer.report.inspect.reading import Reading
from trainer.track.tables import shown, text_table


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """The result of a step that was done again."""

    begun_from: str
    """The checkpoint from which it was reached."""
    record_loss: float | None
    """The loss in the run's record of this step: the mean since the record before; None if the
    step has no record."""
    nats: dict[int, float]
    """The sum of nats of each stream, by its id."""
    grad_norms: dict[str, float]
    """Norm of the gradient of each layer, before clipping."""
    grad_norm: float | None
    """Norm of the whole gradient."""


def told_replayed(reading: Reading, replayed: Replayed) -> str:
    """Return lines for people about a step that was done again."""
    place = reading.place
    lines = [f"replayed from {replayed.begun_from}:"]
    if replayed.record_loss is not None:
        recorded = place.attempt.losses.get(place.step)
        lines.append(_held(f"loss {replayed.record_loss!r}", recorded, replayed.record_loss))
    if reading.filed:
        n_same = sum(_is_same(reading.filed.get(s), nats) for s, nats in replayed.nats.items())
        lines.append(f"{n_same:,} of {len(replayed.nats):,} streams have the filed loss to the bit")
    rows = [("layer", "gradient norm")]
    rows += [(layer, f"{norm:.6g}") for layer, norm in replayed.grad_norms.items()]
    rows.append(("all", shown(replayed.grad_norm, ".6g")))
    return "\n".join([*lines, text_table(rows)])


def replayed_json(reading: Reading, replayed: Replayed) -> dict[str, Any]:
    """Return a step that was done again as JSON values; what is not finite is null."""
    place = reading.place
    return {
        "begun_from": replayed.begun_from,
        "record_loss": _finite(replayed.record_loss),
        "is_as_recorded": replayed.record_loss is not None
        and _is_same(place.attempt.losses.get(place.step), replayed.record_loss),
        "nats": {str(stream): _finite(nats) for stream, nats in replayed.nats.items()},
        "are_as_filed": all(_is_same(reading.filed[s], replayed.nats[s]) for s in reading.filed),
        "grad_norms": {layer: _finite(norm) for layer, norm in replayed.grad_norms.items()},
        "grad_norm": _finite(replayed.grad_norm),
    }


def _held(said: str, recorded: float | None, replayed: float) -> str:
    if _is_same(recorded, replayed):
        return f"{said}, to the last bit that of the record"
    return f"{said}, but the record has {recorded!r}: another device, or other threads or versions"


def _is_same(recorded: float | None, replayed: float) -> bool:
    """Return whether two numbers are equal to the last bit; a record has no number for NaN."""
    if recorded is None or not math.isfinite(recorded):
        return not math.isfinite(replayed)
    return recorded == replayed


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
