"""A forecast in words and as JSON."""

from dataclasses import asdict
from typing import Any

from trainer.budget.check import GIB
from trainer.budget.forecast import Forecast, Row
from trainer.wording import counted, human_count

_HEAD = (
    "DeepSpeed file",
    "weights",
    "gradients",
    "optimizer",
    "memory",
    "activations",
    "at once",
    "micro × slots",
    "largest micro",
    "MB sent",
    "ms",
    "hours",
)


def as_json(found: Forecast) -> dict[str, Any]:
    """Return the plan as JSON values: bytes, tokens and seconds, none rounded."""
    values = asdict(found)
    for row, one in zip(values["rows"], found.rows, strict=True):
        row["held"] |= {"sum": one.held.sum}
        row["sent"] = one.sent._asdict() | {"sum": one.sent.sum}
    return values


def text(found: Forecast, *, name: str, max_steps: int) -> str:
    """Return lines for people, with a table of DeepSpeed files."""
    machine = found.machine
    device = "GPU" if machine.on_gpu else "CPU rank"
    of = "" if machine.memory_gib is None else f" of {machine.memory_gib:g} GiB"
    tokens = "" if found.n_tokens is None else f" of {found.n_tokens:,} tokens"
    lines = [
        f"{name} on {counted(machine.n_devices, device)}{of}: {found.parameters:,} parameters, "
        f"a vocabulary of {found.vocabulary_size:,}",
        f"{found.tokens_per_step:,} tokens a step; {_epochs(found, tokens, max_steps)}; "
        f"a checkpoint takes {found.checkpoint_bytes / GIB:.3g} GiB",
        "",
        f"GiB of one {device}, and MB that one rank sends in a step. Estimates: activations; ms of "
        f"a step and hours of all devices, at {machine.flops_per_s / 1e12:g} TFLOP/s and "
        f"{machine.bytes_per_s / 1e9:g} GB/s:",
        "",
    ]
    rows = [_HEAD, *(_cells(row, has_limit=machine.memory_gib is not None) for row in found.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for i, row in enumerate(rows):
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append(f"| {' | '.join(cells)} |")
        if i == 0:
            lines.append(f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join(lines)


def _epochs(found: Forecast, tokens: str, max_steps: int) -> str:
    if found.steps_per_epoch is None:
        return f"{max_steps:,} steps (--tokens tells how many epochs)"
    return (
        f"{found.steps_per_epoch:,} steps an epoch{tokens}, {max_steps:,} steps are "
        f"{found.epochs:.3g} epochs"
    )


def _cells(row: Row, *, has_limit: bool) -> tuple[str, ...]:
    held = row.held
    parts = (held.weights, held.gradients, held.optimizer, row.memory, row.activations, row.at_once)
    largest = f"{row.largest_micro}" if row.largest_micro is not None else "none fits"
    return (
        row.file,
        *(f"{n / GIB:.3f}" for n in parts),
        f"{row.micro} × {row.slots}",
        largest if has_limit else "–",
        f"{row.sent.sum / 1e6:,.1f}",
        "–" if row.step_s is None else f"{1e3 * row.step_s:.3g}",
        "–" if row.device_hours is None else human_count(row.device_hours),
    )
