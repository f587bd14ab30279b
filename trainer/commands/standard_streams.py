"""Repairing standard input, output and error that are closed or cannot encode a character."""

import codecs
import os
import sys
from typing import TextIO

from trainer.wording import LOGGED_CHARACTERS, printable

#: The name, for `open` and `reconfigure`, of the way to write characters that an encoding lacks.
LOOK_ALIKE = "trainer.look_alike"
_LOOK_ALIKES = {
    "▁": "_",
    "▂": ".",
    "▃": ":",
    "▄": "-",
    "▅": "=",
    "▆": "+",
    "▇": "*",
    "█": "#",
    "·": "*",
    "×": "x",
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "→": "->",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "⌈": "ceil(",
    "⌉": ")",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
}


def mend_standard_streams() -> None:
    """Make the standard streams usable; a process calls this first.

    A closed stream leads nowhere from now on; otherwise the next opened file would take its place.
    For a closed standard input, which has no text, `sys.stdin` stays None. A character that a
    stream's encoding lacks is written as one that looks like it, or escaped.
    """
    for descriptor in range(3):
        if not _is_open(descriptor):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    codecs.register_error(LOOK_ALIKE, _look_alike)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=LOOK_ALIKE)


def say(*lines: str) -> None:
    """Print lines, escaped, whatever characters the names in them hold."""
    for line in lines:
        print(printable(line, most=LOGGED_CHARACTERS))


def drop_standard_output() -> None:
    """Drop the text still buffered for standard output, which cannot be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _look_alike(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    shown = "".join(_LOOK_ALIKES.get(character, character) for character in lacking)
    return shown.encode("ascii", "backslashreplace").decode("ascii"), error.end
