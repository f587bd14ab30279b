"""Tables for people: aligned for a terminal, or as Markdown. Every cell is one harmless line."""

from collections.abc import Iterable, Sequence

from trainer.outside import printable

#: Of a cell, as much as a terminal's line can bear; a document wraps.
_CELL_CHARACTERS, _MARKDOWN_CHARACTERS = 200, 2000


def text_table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of equally many cells, the first the heads, in columns two spaces apart."""
    shown = [[printable(cell, most=_CELL_CHARACTERS) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    )


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """The same as Markdown."""
    head, *others = [[markdown_text(cell) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_text(text: str) -> str:
    """`text` so that Markdown shows it as it stands."""
    shown = printable(text, most=_MARKDOWN_CHARACTERS)
    return "".join(f"\\{c}" if c in "\\`*[<|" else c for c in shown)


def shown(value: float | None, spec: str) -> str:
    """A number as `spec` says, ``-`` for None."""
    return "-" if value is None else format(value, spec)
