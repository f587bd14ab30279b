"""Where it was measured: the card, its driver, the host and the versions."""

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
    """The card first, then versions."""
    if ask.device == "cuda":
        import torch

        told = subprocess.run(
            ["nvidia-smi", _QUERY, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
        yield row("environment", "card", torch.cuda.get_device_name())
        yield row("environment", "card, driver, clock, memory", told.stdout.strip())
        yield row("environment", "CUDA", str(torch.version.cuda))
    yield row("environment", "processor", f"{os.cpu_count()} × {processor('cpu')}")
    yield row("environment", "Python", python_version())
    for name in _PACKAGES:
        if find_spec(name) is not None:
            yield row("environment", name, metadata.version(name))
