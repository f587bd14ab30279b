"""Wording for people: amounts, and text from outside, which is shown escaped."""

import logging
import math
import reprlib
import unicodedata

#: Characters shown of a text from outside; the middle of a longer text is left out.
SHOWN_CHARACTERS = 1000
#: The most characters of a line of a log.
LOGGED_CHARACTERS = 4000
#: Categories of Unicode that move the cursor, hide text, or hold no characters.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(text: object, *, most: int = SHOWN_CHARACTERS) -> str:
    """Return `text` as one line that is safe to show on a terminal.

    Control characters, line ends, marks that turn the direction of writing and lone surrogates are
    escaped as in Python. The middle of a text of more than `most` characters is left out, and
    replaced by its length.
    """
    shown = str(text)
    if len(shown) > most:
        n_left_out = len(shown) - most
        half = most // 2
        shown = f"{shown[:half]}… ({n_left_out:,} characters) …{shown[len(shown) - half :]}"
    return "".join(map(_escaped, shown))


def printable_lines(text: str) -> str:
    """Return a text of lines that is safe to show on a terminal; line ends and tabs stay."""
    return "".join(c if c in "\n\t" else _escaped(c) for c in text)


class LineFormatter(logging.Formatter):
    """A formatter that keeps a message on one line, so that quoted text cannot forge another."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """Return the line; a traceback may follow it."""
        record.message = printable(record.message, most=LOGGED_CHARACTERS)
        return super().formatMessage(record)


def shortened(value: object) -> str:
    """Return Python's `repr` of a value from outside, escaped and cut at each level.

    The length is bounded even for objects that hold one another.
    """
    return printable(_Short().repr(value), most=200)


class _Short(reprlib.Repr):
    """Python's shortening `repr`, with room for a path or a word."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 120


def _escaped(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() else repr(character)[1:-1]
    if unicodedata.category(character) in _UNSEEN:
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character


def counted(count: int, noun: str) -> str:
    """Return a number of things: 1 rank, 2 ranks, 1,000 steps."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def human_count(count: float) -> str:
    """Return three digits and a unit: 950, 5.3k, 412k, 1.74M."""
    if not math.isfinite(count):
        return str(count)
    if abs(count) < 999.5:
        return f"{count:.3g}"
    for unit in "kMGT":
        count /= 1000
        if abs(count) < 999.5 or unit == "T":
            break
    return f"{count:.3g}{unit}"


def human_seconds(seconds: float) -> str:
    """Return the two largest units: 45s, 12m30s, 3h12m, 2d04h."""
    if not math.isfinite(seconds):
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d{h:02d}h"
    if hours:
        return f"{hours}h{m:02d}m"
    return f"{minutes}m{s:02d}s" if minutes else f"{s}s"
