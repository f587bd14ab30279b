"""The memory that this process may use on its machine, and the memory that it has used."""

import os
import resource
import sys
from pathlib import Path
from typing import NamedTuple


class There(NamedTuple):
    """Bytes that a process can have."""

    total: int
    """The most that the process can ever have, if nothing else runs."""
    free: int
    """The part of it that is free now."""
    what: str
    """Whose memory it is, for messages: ``this machine``."""


def of_host(root: Path = Path("/")) -> There:
    """Return the tightest limit among the machine's memory, control groups and shell limits.

    Args:
        root: the root of the file system that holds the kernel's files.
    """
    return min((_of_machine(root), *_of_groups(root), *_of_limits(root)), key=lambda t: t.total)


def peak_bytes(root: Path = Path("/")) -> int:
    """Return the most memory that this process has held since its program began.

    The kernel's other count, in `getrusage`, includes the process before it began this program.
    """
    peak = _numbers(root / "proc/self/status").get("VmHWM")
    if peak is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _of_machine(root: Path) -> There:
    told = _numbers(root / "proc/meminfo")
    total = told.get("MemTotal") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    swap = told.get("SwapTotal", 0)
    free = told.get("MemAvailable", total) + told.get("SwapFree", 0)
    return There(total + swap, free, "this machine")


def _of_groups(root: Path) -> list[There]:
    """Return the limits of the process's control groups, v1 and v2, and of their parents."""
    limits = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        names = ("memory.max", "memory.current")
        top = root / "sys/fs/cgroup"
        if "memory" in controllers.split(","):
            names, top = ("memory.limit_in_bytes", "memory.usage_in_bytes"), top / "memory"
        elif controllers:
            continue
        folder = top / path.lstrip("/")
        for group in (folder, *(p for p in folder.parents if p.is_relative_to(top))):
            limit, used = (_text(group / name).strip() for name in names)
            if limit.isdecimal():
                free = int(limit) - int(used if used.isdecimal() else 0)
                limits.append(There(int(limit), max(0, free), "this job's control group"))
    return limits


def _of_limits(root: Path) -> list[There]:
    limits = []
    for kind, name, used in (
        (resource.RLIMIT_AS, "the limit on address space (ulimit -v)", "VmSize"),
        (resource.RLIMIT_DATA, "the limit on data (ulimit -d)", "VmData"),
    ):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            taken = _numbers(root / "proc/self/status").get(used, 0)
            limits.append(There(max(0, limit - taken), max(0, limit - taken), name))
    return limits


def _numbers(file: Path) -> dict[str, int]:
    """Return bytes by name from a kernel's file of lines such as ``MemTotal:  24 kB``."""
    found = {}
    for line in _text(file).splitlines():
        name, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        if number.isdecimal() and unit == "kB":
            found[name] = 1024 * int(number)
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
