"""How a process of ours ends: exit codes, and the one error a user is meant to read.

The table is printed by ``txl exit-codes`` and in the README. Launchers change exit codes
(torchrun returns 1 for any failed worker), so a wrapper goes by ``status.json`` instead.
"""

import difflib
from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command; `describe` gives the sentence of the README's table."""

    DONE = 0
    BAD_INPUT = 2
    NONFINITE = 70
    EXPECTATION = 71
    REQUEUE = 75
    STOPPED = 76
    ABORTED = 130

    def describe(self) -> str:
        """One sentence for a reader of the table of exit codes."""
        return {
            Exit.DONE: "done: the run reached its end (or had reached it before)",
            Exit.BAD_INPUT: "bad input: one line on stderr says what, where and the fix",
            Exit.NONFINITE: "the loss stayed non-finite after one rollback",
            Exit.EXPECTATION: "the run reached its end, but missed a target of --expect",
            Exit.REQUEUE: "interrupted (signal, time limit); a checkpoint is saved, run again",
            Exit.ABORTED: "left at once by Ctrl-C, a training run by its second; nothing is saved",
            Exit.STOPPED: "stopped by the user (STOP file or Ctrl-C); a checkpoint is saved",
        }[self]


class InputError(Exception):
    """What the user gave cannot be used. The message says what, where and the fix, in one line."""


class NonFiniteError(Exception):
    """The loss stayed non-finite; the message names step, ranks and streams."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest of `known`, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
