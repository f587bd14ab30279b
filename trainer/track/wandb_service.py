"""wandb's own process, which is to outlive what ends a training job.

A launcher such as `deepspeed` ends a worker's descendants before the worker itself, wandb's process
among them, and with it the rows of the last second. So it is started by a process that leaves at
once: then it is nobody's descendant. It ends by itself when nobody is connected any more.
"""

import logging
import subprocess
import sys
from collections.abc import Mapping, MutableMapping

#: Where wandb looks for a process to connect to, before it starts one of its own.
_VARIABLE = "WANDB_SERVICE"
#: How long the process waits for somebody to connect again.
_IDLE = "10s"
_START_S = 60.0

_log = logging.getLogger(__name__)


class WandbService:
    """The process that `wandb.init` connects to; one that the environment names is left alone."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Start nothing yet; `environ` is the process's own, which wandb reads."""
        self._environ = environ
        self._started: str | None = None

    def start(self) -> None:
        """Start the process if there is none; where that fails wandb starts its own as it can."""
        if _VARIABLE in self._environ:
            return
        try:
            self._started = _start(self._environ)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            _log.debug("wandb starts its service itself: %s", error)
            return
        self._environ[_VARIABLE] = self._started

    def forget(self) -> None:
        """Connect to it no more: it is gone, or no longer needed."""
        if self._started is not None and self._environ.get(_VARIABLE) == self._started:
            del self._environ[_VARIABLE]
        self._started = None


def _start(environ: Mapping[str, str]) -> str:
    """Start the process and tell how to connect to it."""
    command = [sys.executable, "-m", "wandb", "beta", "core", "start", "--idle-timeout", _IDLE]
    done = subprocess.run(
        command,
        env=environ,
        check=True,
        capture_output=True,
        text=True,
        timeout=_START_S,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    where = done.stdout.split()
    if len(where) != 1:
        raise ValueError(f"wandb said {done.stdout!r}")
    return where[0]
