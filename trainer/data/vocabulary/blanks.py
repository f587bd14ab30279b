"""Counting white space in a text of words without looking at every word."""

from functools import cache

import numpy as np
import numpy.typing as npt

_AFTER_THE_LAST = 0x3001  # no character from there on is white space


def n_untold_blanks(text: str, *, starts_document: bool) -> int:
    """Return the number of white-space characters that ids of words and line ends do not hold.

    The ids hold every line feed, and a space between two words of a line: the first blank between
    the words, if it is a space.

    Args:
        text: whole words of a document.
        starts_document: whether the text begins the document; otherwise it follows a word.
    """
    if text.isascii():
        codes: npt.NDArray[np.uint8] | npt.NDArray[np.uint32] = np.frombuffer(
            text.encode(), np.uint8
        )
    else:
        wide = np.frombuffer(text.encode("utf-32-le"), np.dtype("<u4"))
        codes = np.minimum(wide, np.uint32(_AFTER_THE_LAST))
    places = np.flatnonzero(_is_blank()[codes])
    if not len(places):
        return 0
    runs = np.flatnonzero(np.diff(places, prepend=-2) > 1)  # each run of blanks begins here
    blanks = codes[places]
    has_line_end = np.logical_or.reduceat((blanks == ord("\n")) | (blanks == ord("\r")), runs)
    is_told = (blanks[runs] == ord(" ")) & ~has_line_end
    if starts_document and places[0] == 0:
        is_told[0] = False
    if places[-1] == len(text) - 1:
        is_told[-1] = False
    n_line_feeds = np.count_nonzero(blanks == ord("\n"))
    return int(len(places) - n_line_feeds - np.count_nonzero(is_told))


@cache
def _is_blank() -> npt.NDArray[np.bool_]:
    """Return for each character before `_AFTER_THE_LAST` whether it is white space."""
    return np.array([chr(code).isspace() for code in range(_AFTER_THE_LAST + 1)])
