"""Ending a process at once, from any thread, when its main one cannot end it."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress

from trainer.errors import Exit
from trainer.launcher_report import tell_launcher


def give_up(reason: str) -> None:
    """End this process at once: it must not write into a directory that another process holds."""
    print(f"error: {reason}: leaving, with nothing saved", file=sys.stderr, flush=True)
    os._exit(Exit.BAD_INPUT)


def leave(environ: Mapping[str, str], told: str, code: int) -> None:
    """End this process at once, from any thread, since its main one waits in vain."""
    if told:
        tell_launcher(f"error: {told}", environ=environ)
        with suppress(OSError):
            print(f"error: {told}", file=sys.stderr, flush=True)
    os._exit(code)
