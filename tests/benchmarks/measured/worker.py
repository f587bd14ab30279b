"""The loop of a worker: one implementation, warm, that does steps when it is told to.

It reads JSON lines from standard input, and answers each on standard output:

- ``{"steps": 2}``: seconds of processor time (of the device on a GPU), the losses, and the peak of
  memory.
- ``{"launched": 2}``: seconds that each of so many steps takes of the host by the clock, which
  waits for the device before and after, not meanwhile.
- ``{"profiled": 2}``: what the device does in so many steps, by PyTorch's profiler.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measured.profiled import profile

Step = Callable[[], torch.Tensor]
"""Gives the mean nats per target, unread."""


def serve(step: Step, *, device: torch.device) -> None:
    """Answer until the input ends."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        ((what, n_steps),) = json.loads(line).items()
        print(json.dumps(_ANSWERS[what](step, n_steps, device)), flush=True)


def _stepped(step: Step, n_steps: int, device: torch.device) -> dict[str, Any]:
    _forget_peak(device)
    losses: list[torch.Tensor] = []
    seconds = _timed(lambda: losses.append(step()), n_steps, device)
    return {
        "seconds": seconds,
        "losses": [float(loss) for loss in losses],
        "peak_mib": _peak_mib(device),
        "reserved_mib": _reserved_mib(device),
    }


def _launched(step: Step, n_steps: int, device: torch.device) -> dict[str, Any]:
    seconds = []
    for _ in range(n_steps):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return {"seconds": seconds}


def _profiled(step: Step, n_steps: int, device: torch.device) -> dict[str, Any]:
    found = profile(step, n_steps, device)
    return {
        "busy_seconds": sum(found.seconds.values()) / n_steps,
        "kernels": sum(found.counts.values()) / n_steps,
        "launches": found.n_launches / n_steps,
    }


_ANSWERS = {"steps": _stepped, "launched": _launched, "profiled": _profiled}


def _timed(step: Callable[[], None], n_steps: int, device: torch.device) -> float:
    if device.type == "cpu":
        began = time.process_time()
        for _ in range(n_steps):
            step()
        return time.process_time() - began
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(n_steps):
        step()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def _forget_peak(device: torch.device) -> None:
    """Count from here: what loading took is not what steps take."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) / 2**10


def _reserved_mib(device: torch.device) -> float | None:
    """Return what PyTorch has asked of the device; it holds the tensors of a graph, too."""
    return torch.cuda.max_memory_reserved(device) / 2**20 if device.type == "cuda" else None
