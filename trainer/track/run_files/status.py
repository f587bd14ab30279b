"""The status of a run, `status.json`: replaced as a whole; for people, wrappers, `txl report`.

Launchers change exit codes, so a wrapper that requeues should read `state`.
"""

import os
import socket
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.config.strict import describe
from trainer.errors import InputError
from trainer.files import replacing, sync
from trainer.outside import MAX_JSON_BYTES, printable, read_bytes
from trainer.track.measure import Count, Measure
from trainer.track.processes import Place, begun, is_running, this_place

STATUS_FILE = "status.json"

#: A value of a result; numbers are limited to those that can be compared.
Value = float | Annotated[int, Field(ge=-(1 << 62), lt=1 << 62)] | str | None

ProcessId = Annotated[int, Field(ge=0, lt=1 << 31)]

RunState = Literal["starting", "running", "done", "requeue", "stopped", "failed"]
_ALIVE = ("starting", "running")


class Status(BaseModel):
    """The state of a run at one moment."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")

    version: Literal[1] = Field(1, description="version of this file's format")
    state: RunState = Field(
        description="starting, running, done, requeue (run it again), stopped (by a user) or failed"
    )
    step: Count = Field(0, description="steps taken")
    update: Count = Field(0, description="steps that changed the weights")
    max_steps: Count = Field(description="updates after which the run is done")
    eta_s: float | None = Field(None, description="seconds until then; None while unknown")
    attempt: Count = Field(description="starts of this run so far, this one included")
    reason: str | None = Field(None, description="why the run is in this state, or what it missed")
    exit_code: Count | None = Field(
        None, description="the trainer's own, whatever its launcher says"
    )
    result: dict[str, Value] | None = Field(None, description="final metrics")
    best_of: Measure | None = Field(None, description="what valid/best_loss is of")
    heartbeat: float = Field(default_factory=time.time, description="unix time of writing")
    host: str = Field(default_factory=socket.gethostname, description="where rank 0 runs")
    pid: ProcessId = Field(default_factory=os.getpid, description="process of rank 0")
    begun: Count | None = Field(None, description="when it began, in the kernel's ticks")
    boot: str = Field("", description="what its machine drew when it was started")
    pid_namespace: str = Field("", description="of the container it runs in")

    @classmethod
    def of_this_process(cls, **values: Any) -> "Status":
        """Return a status that names this process, so that a reader can see whether it lives."""
        place, pid = this_place(), os.getpid()
        return cls(
            host=place.host,
            pid=pid,
            begun=begun(pid),
            boot=place.boot,
            pid_namespace=place.pid_namespace,
            **values,
        )

    def is_gone(self) -> bool:
        """Return whether the process is known to have ended although the run has not.

        This is known only on the same machine and in the same container; elsewhere a reader can
        only go by the silence of the heartbeat.
        """
        if self.state not in _ALIVE or not self.boot:
            return False
        here = this_place()
        there = Place(host=self.host, boot=self.boot, pid_namespace=self.pid_namespace)
        if here.shares_numbers(there):
            return is_running(self.pid, since=self.begun) is False
        if here.host != there.host or here.shares_kernel(there):
            return False
        # The machine was restarted since; or another machine has the same name, and the process
        # still beats there.
        return self.heartbeat < time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def silent_s(self, *, now: float) -> float:
        """Return the seconds since the heartbeat at unix time `now`; 0 for a run that has ended."""
        return max(0.0, now - self.heartbeat) if self.state in _ALIVE else 0.0


def write_status(run_dir: Path, status: Status) -> None:
    """Replace `run_dir`'s status atomically; rank 0 only.

    The status of a run in training does not wait for the disk: killing the process loses nothing,
    and a power cut loses only a heartbeat. Any other status is on the disk itself at return.

    Raises:
        OSError: the disk is full or gone; the previous status stays whole.
    """
    waits = status.state != "running"
    with replacing(run_dir / STATUS_FILE, alone=True, synced=waits) as file:
        file.write(status.model_dump_json(indent=2) + "\n")


def write_last_status(run_dir: Path, status: Status) -> None:
    """Write the status with which a process ends, also on a full disk; rank 0 only.

    Where no new file can be written, the old one is written over: its blocks are there already.

    Raises:
        OSError: the status could not be written in either way.
    """
    try:
        write_status(run_dir, status)
    except OSError as error:
        if not _written_over(run_dir / STATUS_FILE, status.model_dump_json(indent=2) + "\n"):
            raise error


def _written_over(path: Path, text: str) -> bool:
    """Write `text` over a file if it needs no new block; return whether that was done."""
    written = text.encode()
    try:
        with path.open("r+b", buffering=0) as file:
            if len(written) > os.fstat(file.fileno()).st_blocks * 512:
                return False
            file.write(written)
            file.truncate(len(written))
            sync(file.fileno())
    except OSError:
        return False
    return True


def read_status(run_dir: str | Path) -> Status | None:
    """Return the run's last status; None if none was written.

    An empty file, which a power cut may leave, counts as no status.

    Raises:
        InputError: the file exists but is no status.
    """
    path = Path(run_dir) / STATUS_FILE
    if not path.exists():
        return None
    text = read_bytes(path, most_bytes=MAX_JSON_BYTES)
    try:
        return Status.model_validate_json(text) if text else None
    except ValidationError as error:
        problem = printable(describe(error, Status)[0], most=200)
        raise InputError(
            f"{path} is not a status: {problem}; remove it, the run writes it anew"
        ) from None
