"""A row of the card's table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What a part found."""

    part: str
    name: str
    value: float | str
    ok: bool

    def __str__(self) -> str:
        """A line of the table."""
        value = f"{self.value:,.4g}" if isinstance(self.value, float) else self.value
        return f"{'' if self.ok else 'FAILED':7}{self.part:30} {self.name:44} {value}"


def row(part: str, name: str, value: float | str, *, ok: bool = True) -> Row:
    """A row; numbers are kept as floats."""
    return Row(part, name, value if isinstance(value, str) else float(value), ok)


def last_line(text: str) -> str:
    """Of what a process said before it failed."""
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "it says nothing"
