"""Naming a process in a file, and finding out whether it still runs.

A process number is not enough: it may belong to another machine or container, or to a later process
that got the same number. Times are compared by the kernel's clock only, so setting clocks is safe.
"""

import fcntl
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.errors import InputError
from trainer.outside import printable, read_json

_PROC = Path("/proc")
#: States of a process that has ended, but whose parent has not noticed yet.
_ENDED = ("Z", "X", "x")
#: States of a process that a signal or a debugger has stopped.
_STOPPED = ("T", "t")
#: The kernel's fields of a process after its name; the last is how it ended.
_N_FIELDS = 50


@dataclass(frozen=True, kw_only=True)
class Place:
    """Scope of process numbers: a machine since it started, a container on it."""

    host: str
    boot: str
    """A random id of the machine's present start; empty if the system has none."""
    pid_namespace: str
    """The container's namespace of process numbers; empty if the system has none."""

    def shares_kernel(self, other: "Place") -> bool:
        """Return whether both are on the same running machine, even in different containers."""
        return self.boot == other.boot and (self.boot != "" or self.host == other.host)

    def shares_numbers(self, other: "Place") -> bool:
        """Return whether a process has the same number in both places."""
        return self.shares_kernel(other) and self.pid_namespace == other.pid_namespace


def this_place() -> Place:
    """Return where this process runs."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    try:
        namespace = os.readlink(_PROC / "self/ns/pid")
    except OSError:
        namespace = ""
    return Place(host=socket.gethostname(), boot=boot, pid_namespace=namespace)


def begun(pid: int) -> int | None:
    """Return when a process began, in the kernel's ticks since the machine started.

    The result is None if the process has ended or never existed, or the system does not say.
    """
    fields = _stat(pid)
    return None if fields is None or fields[0] in _ENDED else int(fields[19])


def is_running(pid: int, *, since: int | None) -> bool | None:
    """Return whether process `pid` of this place still runs; None if this cannot be known.

    Args:
        pid: the process's number.
        since: the result of `begun` while the process ran.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's process
    fields = _stat(pid)
    if fields is None:
        return None  # /proc can be set to hide other users' processes
    if fields[0] in _ENDED:
        return False
    return None if since is None else int(fields[19]) == since


def parent_of(pid: int) -> int | None:
    """Return the number of a process's parent; None if the system does not say."""
    fields = _stat(pid)
    return None if fields is None else int(fields[1])


def how_ended(pid: int, *, since: int | None) -> str | None:
    """Return how a process of this place ended, as a predicate; None if it may still run.

    The system tells a signal or an exit code until the process's parent has noticed the end; after
    that it is only known that the process is gone.

    Args:
        pid: the process's number.
        since: the result of `begun` while the process ran.
    """
    if is_running(pid, since=since) is not False:
        return None
    fields = _stat(pid)
    if fields is None or fields[0] not in _ENDED or len(fields) < _N_FIELDS:
        return "is gone"
    status = int(fields[_N_FIELDS - 1])
    if os.WIFSIGNALED(status):
        number = signal.Signals(os.WTERMSIG(status))
        why = ", as the kernel does when memory runs out" if number == signal.SIGKILL else ""
        return f"was ended by {number.name}{why}"
    return f"ended with exit code {os.WEXITSTATUS(status)}"


def is_stopped(pid: int) -> bool:
    """Return whether a signal or a debugger has stopped a process of this place."""
    fields = _stat(pid)
    return fields is not None and fields[0] in _STOPPED


class Holder(BaseModel):
    """The process that holds a claim, as the claim's file describes it."""

    model_config = ConfigDict(frozen=True)

    version: int = Field(1, ge=1, le=1)
    host: str
    pid: int = Field(ge=1, lt=1 << 31)
    begun: int | None
    boot: str
    pid_namespace: str
    device: int = Field(description="file system that the holder sees the file on")
    is_locked: bool
    since: float = Field(ge=0, le=1e11, description="unix time, for people to read")

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {printable(self.host, most=80)} since {since}"

    @classmethod
    def this_process(cls, descriptor: int, here: Place) -> "Holder":
        """Describe this process, and lock the opened file if its file system can."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        except OSError:
            is_locked = False
        pid = os.getpid()
        return cls(
            host=here.host,
            pid=pid,
            begun=begun(pid),
            boot=here.boot,
            pid_namespace=here.pid_namespace,
            device=os.fstat(descriptor).st_dev,
            is_locked=is_locked,
            since=time.time(),
        )

    def lives(self, descriptor: int, here: Place) -> bool | None:
        """Return whether the holder runs; None if the kernel of `here` does not know.

        Args:
            descriptor: the open file of the holder's claim.
            here: where this process runs.
        """
        there = Place(host=self.host, boot=self.boot, pid_namespace=self.pid_namespace)
        if not here.shares_kernel(there):
            return None
        if here.shares_numbers(there):
            runs = is_running(self.pid, since=self.begun)
            if runs is not None:
                return runs
        if not self.is_locked or os.fstat(descriptor).st_dev != self.device:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
        return False


def read_holder(file: Path) -> Holder | None:
    """Return the holder that a file names; None if it names none (after a power cut) or is gone."""
    try:
        return Holder.model_validate(read_json(file))
    except (InputError, ValidationError):
        return None


def _stat(pid: int) -> list[str] | None:
    """Return the kernel's fields of a process after its name, which may have blanks in it."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
