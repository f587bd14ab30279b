"""Where it was measured: versions, the host, the card and its driver."""

import os
import subprocess
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from platform import python_version

from measured.processes import processor
from on_card.rows import Ask, Row, row

_PACKAGES = ("torch", "triton", "deepspeed")
_QUERY = "--query-gpu=name,driver_version,clocks.max.sm,memory.total"


def environment(ask: Ask) -> Iterator[Row]:
    """Yield versions, the processor, and the card."""
    for name in _PACKAGES:
        if find_spec(name) is not None:
            yield row("environment", name, metadata.version(name))
    yield row("environment", "Python", python_version())
    yield row("environment", "processor", f"{os.cpu_count()} × {processor('cpu')}")
    if ask.device == "cpu":
        return
    import torch

    yield row("environment", "CUDA", str(torch.version.cuda))
    yield row("environment", "card", processor(ask.device))
    query = ["nvidia-smi", _QUERY, "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, check=True)
    yield row("environment", "card, driver, clock, memory", told.stdout.strip())
