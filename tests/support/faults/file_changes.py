"""What may come between any two changes of the file system: a kill, an error, a reader's look."""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
#: What a test that writes piece by piece tells `sys.audit` between two pieces.
PIECE = "tests.piece"

_before: Callable[[], None] | None = None
_hooked: list[bool] = []


@contextmanager
def before_each_change(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` before each change of the file system in the block; what it raises stops that."""
    global _before
    if not _hooked:  # once: Python takes no hook back
        sys.addaudithook(_hook)
        _hooked.append(True)
    _before = act
    try:
        yield
    finally:
        _before = None


def _hook(name: str, args: tuple[Any, ...]) -> None:
    global _before
    act = _before
    writes = name == "open" and args[1] is not None and set(args[1]) & set("wxa+")
    if act is None or not (writes or name in _CHANGES or name == PIECE):
        return
    _before = None  # what it does itself is no change to be told of
    try:
        act()
    finally:
        _before = act


def at_call(n: int, act: Callable[[], None]) -> Callable[[], None]:
    """Return what calls `act` the n-th time that it is called."""
    left = [n]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            act()

    return count


def killed_before_change(n: int, action: Callable[[], object]) -> bool:
    """Run `action` in a child that is killed before its n-th change of the file system.

    Returns:
        Whether it got as far as that.
    """
    child = os.fork()
    if child == 0:
        try:
            with before_each_change(at_call(n, lambda: os.kill(os.getpid(), signal.SIGKILL))):
                action()
            os.kill(os.getpid(), signal.SIGTERM)  # no exit handlers of pytest's
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGTERM)
    return os.WTERMSIG(status) == signal.SIGKILL


def stages(found: Iterable[Any]) -> list[Any]:
    """Return what was found time after time, without what was the same as before."""
    return [one for one, _ in groupby(found)]
