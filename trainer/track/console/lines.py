"""The line of a record, in a fixed order."""

from collections.abc import Callable, Mapping
from typing import Any

from trainer.track.perplexity import shown_perplexity
from trainer.wording import human_count, human_seconds


def console_line(
    values: Mapping[str, Any],
    *,
    step: int,
    max_steps: int,
    part: str = "train",
    eta_s: float | None = None,
) -> str:
    """Return a line for people, always in the same order, without metrics that are missing.

    Args:
        values: metrics by name, such as ``train/loss``.
        step: the step of the metrics.
        max_steps: the step at which the run ends.
        part: ``train``, or ``valid``, which the line then names.
        eta_s: seconds until the end; None is left out.
    """
    cells = [f"step {step:,}/{max_steps:,}"]
    if part != "train":
        cells.append(part)
    for name, cell in _CELLS.items():
        value = values.get(name.format(part=part))
        if value is not None:
            cells.append(cell(value))
    if eta_s is not None:
        cells.append(f"eta {human_seconds(eta_s)}")
    return " | ".join(cells)


_CELLS.items():
        value = values.get(name.format(part=part))
        if value is not None:
            cells.append(cell(value))
    if eta_s is not None:
        cells.append(f"eta {human_seconds(eta_s)}")
    return " | ".join(cells)


def _perplexity(name: str, value: float) -> str:
    return f"{name} {value:.2f}" if value < 1e6 else f"{name} {value:.2e}"


_CELLS: dict[str, Callable[[float], str]] = {
    "{part}/loss": "loss {:.4f}".format,
    "{part}/ppl": lambda ppl: f"ppl {shown_perplexity(ppl)}",
    "{part}/ppl_word": lambda ppl: f"ppl_word {shown_perplexity(ppl)}",
    "{part}/bpc": "bpc {:.4f}".format,
    "optim/lr": "lr {:.2e}".format,
    "optim/grad_norm": "grad_norm {:.2f}".format,
    "throughput/tokens_per_s": lambda rate: f"{human_count(rate)} tok/s",
    "memory/peak_gib": "mem {:.1f} GiB".format,
}
