"""Exit codes of our processes, and the errors that a user is meant to read.

``txl exit-codes`` and launch/README.md show the table of codes. Launchers change exit codes
(torchrun returns 1 for any failed worker), so a wrapper should read ``status.json`` instead.
"""

import difflib
from collections.abc import Iterable, Sequence
from enum import IntEnum

from trainer.wording import printable

#: A hint with more names than this is no help.
_MOST_NAMES = 4
#: No name is longer, and the time to compare two words grows with the square of their length.
_MOST_LETTERS = 100


#: The most characters of an error's line: differences may be many, and text from a file endless.
_MOST_CHARACTERS = 20_000


class Exit(IntEnum):
    """Exit codes of every command; `describe` returns a code's sentence in the table."""

    DONE = 0
    BAD_INPUT = 2
    NONFINITE = 70
    EXPECTATION = 71
    OUT_OF_MEMORY = 72
    HUNG = 73
    LOST = 74
    REQUEUE = 75
    STOPPED = 76
    CORPUS = 77
    UNSAVED = 78
    UNFIT = 79
    HUNG_UP = 129
    ABORTED = 130
    UNREAD = 141
    TERMINATED = 143

    def describe(self) -> str:
        """Return the code's sentence in the table of exit codes."""
        return {
            Exit.DONE: "done: the run reached its end (or had reached it before)",
            Exit.BAD_INPUT: "bad input: one line on stderr says what, where and the fix",
            Exit.NONFINITE: (
                "the loss stayed non-finite after one rollback, or became so in dynamic evaluation"
            ),
            Exit.EXPECTATION: "the run reached its end, but missed a target of --expect",
            Exit.OUT_OF_MEMORY: "out of memory: one line says what was asked for and what to lower",
            Exit.HUNG: "no progress for limits.distributed_timeout_s; the rank is named, run again",
            Exit.LOST: "another rank was lost without a word; it is named, run again",
            Exit.REQUEUE: "interrupted (signal, time limit); what was trained is saved, run again",
            Exit.STOPPED: "stopped by the user (STOP file or Ctrl-C); a checkpoint is saved",
            Exit.CORPUS: "the corpus was changed, cut or damaged under the run: the line names it",
            Exit.UNSAVED: "trained to its end, but the last checkpoint could not be written",
            Exit.UNFIT: "txl check-model: the model breaks the Protocol; the table says how",
            Exit.HUNG_UP: "a command other than training was ended by SIGHUP",
            Exit.ABORTED: "left at once by Ctrl-C, training by its second; nothing is saved",
            Exit.UNREAD: "the reader of the output left, as `| head` does",
            Exit.TERMINATED: "a command other than training was ended by SIGTERM",
        }[self]


class InputError(Exception):
    """A refusal of the user's input. The message says what, where and the fix, in one line.

    Only an answer to many flags at once has more `lines`. A message may quote files, keys and words
    that others chose, so each line is escaped.
    """

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the lines of the message, one per argument of the error."""
        return tuple(printable(argument, most=_MOST_CHARACTERS) for argument in self.args)

    def __str__(self) -> str:
        return "\n".join(self.lines)


class LoneRefusalError(InputError):
    """A refusal of one rank that could tell no other, so that it has to print it itself."""


class CorpusError(InputError):
    """A corpus that was changed, cut or damaged while a run used it; the message names the file."""


class ShortageError(Exception):
    """An error: memory ran out. The message is one line that says what to lower."""

    def __init__(self, message: str, *, is_own: bool = True) -> None:
        """Make the error; `is_own` says that this process ran out, not another rank."""
        super().__init__(message)
        self.is_own = is_own


class LostRankError(Exception):
    """An error: another rank ended. The message is a line that says which rank, and how."""

    def __init__(self, message: str, *, code: int, speaks: bool) -> None:
        """Make the error; of the ranks that remain one `speaks`, and all end with `code`."""
        super().__init__(message)
        self.code, self.speaks = code, speaks


class NonFiniteError(Exception):
    """The loss stayed non-finite; the message names step, ranks and streams, or what to lower."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` with the likely names in `known`, or an empty string.

    Likely are the names that begin with `word`; else those that end with it as a whole part, as
    ``optim.lr`` with ``lr``; else the one nearest in spelling. Case does not matter.
    """
    names = {name.lower(): name for name in known}
    typed = word[:_MOST_LETTERS].lower()
    stem = typed.lstrip("-")
    begin = [low for low in names if stem and low.startswith(typed)]
    end = [low for low in names if stem and low.endswith(f".{stem}")]
    near = difflib.get_close_matches(typed, list(names), n=1, cutoff=0.6)
    meant = [repr(names[low]) for low in begin or end or near]
    if not meant:
        return ""
    *most, last = meant if len(meant) <= _MOST_NAMES else [*meant[:_MOST_NAMES], "others"]
    return f" (did you mean {', '.join(most)}{' or ' if most else ''}{last}?)"


def first_few(items: Sequence[str], *, separator: str = "; ", most: int = 5) -> str:
    """Join the first `most` items, and say how many more there are."""
    n_more = len(items) - most
    shown = separator.join(items[:most])
    return f"{shown}{separator}and {n_more:,} more" if n_more > 0 else shown
