"""Noticing that a rank's launcher is gone: otherwise the rank trains on, and nobody knows of it.

SIGKILL ends any launcher at once, and ``deepspeed`` ends by SIGTERM and SIGUSR2, too: it hands no
signal on. Of ``deepspeed`` two processes are launchers, one the parent of the other.
"""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from trainer.track.processes import begun, is_running, parent_of

#: Seconds between two looks at the launchers.
LOOK_S = 0.5
#: The variable that torchrun, and whatever is built on it, sets for its workers.
_OF_TORCHRUN = "TORCHELASTIC_RUN_ID"
#: By a word of its command line: the name of a launcher, as a person knows it.
_NAMES = {
    "deepspeed.launcher.launch": "deepspeed",
    "deepspeed.launcher.runner": "deepspeed",
    "deepspeed": "deepspeed",
    "torch.distributed.run": "torchrun",
    "torchrun": "torchrun",
}
#: Words of a command line among which its program is: an interpreter, its flags, and the program.
_N_WORDS = 5


class Launcher(NamedTuple):
    """A process that has started this one, and waits for its end."""

    name: str
    pid: int
    since: int | None


def launchers(environ: Mapping[str, str]) -> list[Launcher]:
    """Return this process's parent and its parents in turn, as far as they are launchers.

    A shell or a batch system above them may end while they go on.
    """
    found: list[Launcher] = []
    pid: int | None = os.getppid()
    name = _name_of(pid) or ("torchrun" if _OF_TORCHRUN in environ else None)
    while pid and name:
        found.append(Launcher(name, pid, begun(pid)))
        pid = parent_of(pid)
        name = _name_of(pid)
    return found


def watch_launchers(watched: list[Launcher], on_end: Callable[[str], None]) -> None:
    """Start a thread that calls `on_end` once, with a reason, when one of `watched` is gone."""

    def watch() -> None:
        waiting = threading.Event()
        while True:
            for launcher in watched:
                if is_running(launcher.pid, since=launcher.since) is False:
                    on_end(f"the launcher {launcher.name} (process {launcher.pid}) is gone")
                    return
            waiting.wait(LOOK_S)

    if watched:
        threading.Thread(target=watch, name="launcher", daemon=True).start()


def _name_of(pid: int | None) -> str | None:
    """Return the name of the launcher that a process is; None for another process."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    programs = [os.path.basename(os.fsdecode(word)) for word in words[:_N_WORDS]]
    return next((_NAMES[word] for word in programs if word in _NAMES), None)
