"""Standard input, output and error as they may be found: closed, or unable to say a character."""

import codecs
import os
import sys
from typing import TextIO

from trainer.wording import LOGGED_CHARACTERS, printable

#: Name of the way to write what an encoding lacks, for `open` and `reconfigure`.
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
    """Make the standard streams usable; first of all in a process.

    A closed one leads nowhere from now on, or else the next file would be opened in its place; but
    of a closed standard input `sys.stdin` stays None, for it says nothing. A character that the
    encoding of a stream lacks is written as one that looks like it, or escaped.
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
    """Print lines, whatever the names in them hold."""
    for line in lines:
        print(printable(line, most=LOGGED_CHARACTERS))


def drop_standard_output() -> None:
    """Send what is still buffered for standard output nowhere: it cannot be written."""
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
