"""The loop of a worker: one implementation, warm, that does steps when it is told to.

It reads JSON lines from standard input, ``{"steps": 2}``, and answers each on standard output:
seconds of processor time (of the device on a GPU), the losses, and the peak of memory.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def serve(step: Callable[[], torch.Tensor], *, device: torch.device) -> None:
    """Answer until the input ends; `step` gives the mean nats per target, unread."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        _forget_peak(device)
        losses: list[torch.Tensor] = []
        seconds = _timed(lambda: losses.append(step()), told["steps"], device)  # noqa: B023
        answer: dict[str, Any] = {
            "seconds": seconds,
            "losses": [float(loss) for loss in losses],
            "peak_mib": _peak_mib(device),
        }
        print(json.dumps(answer), flush=True)


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
