"""What the device does in a step, by PyTorch's profiler: kernels and copies, those of graphs too.

On a CPU it is what PyTorch's operations do, each without those that it calls.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity


@dataclass(frozen=True)
class Profile:
    """A profile of some steps."""

    seconds: dict[str, float]
    """Of the device, by the name of what it did."""
    counts: dict[str, int]
    """How often it did that."""
    n_launches: int
    """Calls of the driver that launch a kernel or a graph; on a CPU 0."""


def profile(step: Callable[[], object], n_steps: int, device: torch.device) -> Profile:
    """Do steps, and return what the device has done."""
    is_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(n_steps):
            step()
        if is_gpu:
            torch.cuda.synchronize(device)
    seconds, counts, n_launches = Counter[str](), Counter[str](), 0
    for event in profiler.events() or ():
        if is_gpu and not str(event.device_type).endswith("CUDA"):
            n_launches += "Launch" in event.name and event.name.startswith("cu")
        elif not getattr(event, "is_user_annotation", False):  # which spans others
            counts[event.name] += 1
            own_us = event.time_range.elapsed_us() if is_gpu else event.self_cpu_time_total
            seconds[event.name] += own_us / 1e6
    return Profile(dict(seconds), dict(counts), n_launches)
