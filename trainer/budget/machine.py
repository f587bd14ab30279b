"""How much memory there is: of this machine, as far as this process may use it, and of its GPU."""

import os
import resource
import sys
from pathlib import Path
from typing import NamedTuple


class There(NamedTuple):
    """Bytes that a process can have."""

    total: int
    """At most, whatever else runs."""
    free: int
    """Now."""
    what: str
    """Whose memory it is, for messages: ``this machine``."""


def of_host(root: Path = Path("/")) -> There:
    """Find the tightest of what the machine has, its control groups allow and the shell limits.

    Args:
        root: of the file system, in which the kernel's files lie.
    """
    return min((_of_machine(root), *_of_groups(root), *_of_limits(root)), key=lambda t: t.total)


def peak_bytes(root: Path = Path("/")) -> int:
    """Return the most memory that this process has had since its program was begun.

    The kernel's other count, of `getrusage`, also holds what the process was before that.
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
    """Limits of the process's control groups, old and new, and of those that these are in."""
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
    """Bytes by name, of a file of the kernel's in lines such as ``MemTotal:  24 kB``."""
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
