"""Starting wandb's own process so that it outlives the end of a training job.

A launcher such as `deepspeed` ends a worker's descendants before the worker itself. If wandb's
process were among them, the rows of the last second would be lost. So a process that exits at once
starts wandb's, which is then no descendant. It ends by itself when nobody is connected any more.
"""

import logging
import subprocess
import sys
from collections.abc import Mapping, MutableMapping

#: The variable that tells wandb which process to connect to, instead of starting its own.
_VARIABLE = "WANDB_SERVICE"
#: How long the process waits for a new connection before it ends.
_IDLE = "30s"
_START_S = 60.0

_log = logging.getLogger(__name__)


class WandbService:
    """The process to which `wandb.init` connects; one named in the environment is left alone."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Start nothing yet; `environ` is the environment of this process, which wandb reads."""
        self._environ = environ
        self._started: str | None = None

    def start(self) -> None:
        """Start the process if there is none; if that fails, wandb starts one of its own."""
        if _VARIABLE in self._environ:
            return
        try:
            self._started = _start(self._environ)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            _log.debug("wandb starts its service itself: %s", error)
            return
        self._environ[_VARIABLE] = self._started

    def forget(self) -> None:
        """Stop connecting to the process, because it is gone or no longer needed."""
        if self._started is not None and self._environ.get(_VARIABLE) == self._started:
            del self._environ[_VARIABLE]
        self._started = None


def _start(environ: Mapping[str, str]) -> str:
    """Start the process; return the value of `_VARIABLE` that connects to it."""
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
