"""Tables for people: aligned for a terminal, or as Markdown. Every cell is one escaped line."""

from collections.abc import Iterable, Sequence

from trainer.outside import printable

#: The most characters of a cell on a terminal, and in a document, which can wrap lines.
_CELL_CHARACTERS, _MARKDOWN_CHARACTERS = 200, 2000


def text_table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of equally many cells in columns two spaces apart; the first row is the head."""
    shown = [[printable(cell, most=_CELL_CHARACTERS) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    )


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of equally many cells as a Markdown table; the first row is the head."""
    head, *others = [[markdown_text(cell) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_text(text: str) -> str:
    """Return `text`, escaped so that Markdown shows it unchanged."""
    shown = printable(text, most=_MARKDOWN_CHARACTERS)
    return "".join(f"\\{c}" if c in "\\`*[<|" else c for c in shown)


def shown(value: float | None, spec: str) -> str:
    """Return a number formatted by `spec`; ``-`` for None."""
    return "-" if value is None else format(value, spec)
