"""Tables of the reference, as values: a test can look for what they lack."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A headed table; the last cell of each row says what the row means."""

    title: str
    """The heading above the table; an empty one is left out."""
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    text: str = ""
    """The text between heading and table."""

    def lines(self, *, level: int) -> list[str]:
        """Return the table as lines of Markdown below a heading of this level."""
        lines = [f"{'#' * level} {self.title}", ""] if self.title else []
        if self.text:
            lines += [_plain(self.text), ""]
        if self.rows:
            cells = [self.heads, ("---",) * len(self.heads), *self.rows]
            lines += [f"| {' | '.join(map(_cell, row))} |" for row in cells] + [""]
        return lines


@dataclass(frozen=True)
class Chapter:
    """Tables of one kind."""

    title: str
    text: str
    tables: Sequence[Table]

    def lines(self) -> list[str]:
        """Return the chapter as lines of Markdown."""
        inner = [line for table in self.tables for line in table.lines(level=3)]
        return [f"## {self.title}", "", self.text, "", *inner]


def link(title: str) -> str:
    """Return a link to the heading `title` of the same page."""
    anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
    return f"[{title}](#{anchor})"


def code(text: object) -> str:
    """Return `text` as a table shows what is typed or written; nothing for an empty text."""
    return f"`{text}`" if str(text) else ""


def _cell(text: str) -> str:
    return _plain(text).replace("|", r"\|")


def _plain(text: str) -> str:
    """Return `text` without what Markdown would take for HTML."""
    return text.replace("<", r"\<")
