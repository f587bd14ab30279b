"""What `card.py` and its parts tell each other: what a part is asked, and rows that it finds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A result of a part."""

    part: str
    name: str
    value: float | str
    ok: bool

    def __str__(self) -> str:
        """Return a line of the table."""
        value = f"{self.value:,.4g}" if isinstance(self.value, float) else self.value
        return f"{'' if self.ok else 'FAILED':7}{self.part:44} {self.name:36} {value}"


@dataclass(frozen=True)
class Ask:
    """A question to a part."""

    device: str
    """cuda, or cpu for a test of the part."""
    limit_s: float
    """Seconds after which its process is killed."""
    told: dict[str, Any] = field(default_factory=dict)
    """The fields of what it measures, if there are several such parts."""


Part = Callable[[Ask], Iterator[Row]]


def row(part: str, name: str, value: float | str, *, ok: bool = True) -> Row:
    """Return a row; numbers are kept as floats."""
    return Row(part, name, value if isinstance(value, str) else float(value), ok)


def last_line(text: str) -> str:
    """Return the last line of what a process said before it failed."""
    # NCCL's farewell comes after the error.
    lines = [line for line in text.strip().splitlines() if "ProcessGroupNCCL" not in line]
    return lines[-1][:300] if lines else "it says nothing"
