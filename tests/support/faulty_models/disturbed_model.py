"""Transformer-XL whose process does what a file asks for: the faults that come from inside.

A thread looks for the file `rank-R` in the folder that SOAK_FAULTS names, removes it and does what
it says. These are the faults of a process that no signal from outside makes.
"""

import ctypes
import os
import resource
import socket
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.config.recipe import ModelConfig
from trainer.model.transformer_xl import TransformerXL

LOOK_S = 0.02
#: Seconds that a slow rank keeps the others waiting.
SLOW_S = 1.5
#: For ever, beside any limit.
_HANGS_S = 100_000


def build(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build what `--model.factory disturbed_model:build` names."""
    model = TransformerXL(config, vocabulary_size)
    if folder := os.environ.get("SOAK_FAULTS"):
        rank = os.environ.get("RANK") or os.environ["SLURM_PROCID"]
        fault = _Fault(Path(folder) / f"rank-{rank}")
        model.register_forward_pre_hook(fault.in_pass)
    return model


class _Fault:
    """A thread that waits for the file, and what a forward pass does about it."""

    def __init__(self, file: Path) -> None:
        self._file, self._in_pass = file, ""
        threading.Thread(target=self._wait, name="faults", daemon=True).start()

    def in_pass(self, *_: Any) -> None:
        asked, self._in_pass = self._in_pass, ""
        if asked == "exception":
            raise ValueError("planted")
        if asked == "slow":
            time.sleep(SLOW_S)
        if asked == "no memory":
            _run_out_of_memory()

    def _wait(self) -> None:
        while True:
            time.sleep(LOOK_S)
            try:
                asked = self._file.read_text()
            except FileNotFoundError:
                continue
            self._file.unlink()
            if asked in ("exception", "slow", "no memory"):
                self._in_pass = asked
            else:
                _FROM_A_THREAD[asked]()


def _run_out_of_memory() -> None:
    """Ask for more than the process may have."""
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = n_pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    torch.zeros(1 << 28)


def _raise_in_main_thread() -> None:
    main = ctypes.c_ulong(threading.main_thread().ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(RuntimeError))


def _hold_the_lock() -> None:
    """Sleep in C with the interpreter's lock, so that no thread of this process goes on."""
    ctypes.PyDLL(None).sleep(_HANGS_S)


def _break_connections() -> None:
    """Shut every connection of this process, as a network does that breaks."""
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as end:
                if end.family in (socket.AF_INET, socket.AF_INET6):
                    end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue  # no socket, or one that listens, or closed meanwhile


_FROM_A_THREAD = {
    "asynchronous exception": _raise_in_main_thread,
    "held lock": _hold_the_lock,
    "segmentation fault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "broken connections": _break_connections,
}
