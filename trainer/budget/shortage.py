"""Recognising that memory ran out, and saying so in one line, on the other ranks too."""

import contextlib
import errno
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from trainer.errors import CorpusError, Exit, ShortageError

if TYPE_CHECKING:
    from trainer.distributed import World

#: How PyTorch, its libraries and the C++ library word it in errors without a class of their own.
_SIGNS = re.compile(
    r"DefaultCPUAllocator|not enough memory|can't allocate memory|Cannot allocate memory"
    r"|out of memory|std::bad_alloc|Unable to mmap"
)
#: How these libraries and numpy word the amount that was asked for.
_ASKED = re.compile(
    r"tried? to allocate ([\d.,]+ ?(?:bytes|[KMG]iB|B))|Unable to allocate ([\d.]+ [KMGT]iB)",
    re.IGNORECASE,
)


def is_shortage(error: BaseException) -> bool:
    """Return whether an error means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _SIGNS.search(str(error)) is not None


def describe(error: BaseException, *, where: str = "", situation: str = "") -> str:
    """Describe a shortage of memory in one line.

    Args:
        error: an error for which `is_shortage` is true.
        where: the rank and its host, if there are several ranks.
        situation: sizes, and what to lower.
    """
    asked = _ASKED.search(str(error))
    size = _readable(asked[1] or asked[2]) if asked else "a block that it does not name"
    device = "the GPU" if "CUDA" in str(error) or "HIP" in str(error) else "this machine"
    line = f"out of memory{where}: {size} more could not be had of {device}"
    return f"{line}; {situation}" if situation else line


def _readable(size: str) -> str:
    number, _, unit = size.partition(" ")
    if unit == "bytes" and number.replace(",", "").isdecimal():
        return f"{int(number.replace(',', '')) / 2**30:,.2f} GiB"
    return size


@contextlib.contextmanager
def explained(world: "World | None", situation: Callable[[], str]) -> Iterator[None]:
    """Turn a shortage of memory into one line, on this rank and on those that wait for it.

    What is wrong with a corpus is told to the other ranks, too.

    Args:
        world: this process among its peers; None without any.
        situation: called only for a shortage; returns sizes, and what to lower.

    Raises:
        ShortageError: the block ran out of memory, or failed because another rank's did.
        CorpusError: the corpus failed this rank, or another one.
    """
    from trainer.budget.last_word import heard_from_peer, tell_peers

    try:
        yield
    except ShortageError:
        raise
    except CorpusError as error:
        if world is not None:
            tell_peers(str(error), world, code=Exit.CORPUS)
        raise
    except Exception as error:
        if not is_shortage(error):
            heard = None if world is None else heard_from_peer(world)
            if heard is None:
                raise
            code, told = heard
            if code is Exit.CORPUS:
                raise CorpusError(told) from error
            raise ShortageError(told, is_own=False) from error
        line = describe(error, where=_where(world), situation=situation())
        if world is not None:
            tell_peers(line, world, code=Exit.OUT_OF_MEMORY)
        # Without the cause, whose frames would keep their tensors alive.
        raise ShortageError(line) from None


def _where(world: "World | None") -> str:
    if world is None or world.world_size == 1:
        return ""
    import socket

    return f" on rank {world.rank} ({socket.gethostname()})"
