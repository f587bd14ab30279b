"""The equipment of one rank's machine: its device, precisions that compute, memory and disk."""

import os
import platform
import re
import shutil
import tempfile
from pathlib import Path

import torch

from trainer.budget.machine import of_host
from trainer.distributed import has_fast_bf16

GIB = 2**30
#: Bytes that are written to see whether a disk takes them.
_TRIED_BYTES = 1 << 20
#: By precision: the largest error of a product of unit vectors that rounding explains.
_TRIED = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 3e-3}


def device_of(device: torch.device) -> str:
    """Return the device's name, with what drives it."""
    if device.type == "cuda":
        name, (major, minor) = _gpu(device)
        driver = _driver()
        cuda = f"CUDA {torch.version.cuda}"
        return f"{name}, compute capability {major}.{minor}, {cuda}, driver {driver}"
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"CPU {_processor()}, {n_cores} cores, {torch.get_num_threads()} threads per rank"


def _gpu(device: torch.device) -> tuple[str, tuple[int, int]]:
    return torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)


def _driver(file: Path = Path("/proc/driver/nvidia/version")) -> str:
    try:
        found = re.search(r"\b\d+(\.\d+)+\b", file.read_text())
    except OSError:
        return "unknown"
    return found[0] if found else "unknown"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*: (.*)$", text, flags=re.M)
    return found[1] if found else platform.machine()


def precisions(device: torch.device) -> tuple[str, list[str]]:
    """Multiply in each precision; return a sentence, and the precisions that compute wrongly."""
    torch.manual_seed(0)
    a = torch.nn.functional.normalize(torch.randn(64, 64, dtype=torch.float64), dim=1)
    expected = a @ a.T
    works: list[str] = []
    wrong: list[str] = []
    for dtype, tolerance in _TRIED.items():
        name = str(dtype).removeprefix("torch.")
        try:
            factor = a.to(device=device, dtype=dtype)
            product = (factor @ factor.T).to(device="cpu", dtype=torch.float64)
        except RuntimeError:
            continue  # the device does not have it
        is_right = bool((product - expected).abs().max() <= tolerance)
        (works if is_right else wrong).append(name)
    fast = "bfloat16 natively" if has_fast_bf16(device) else "bfloat16 emulated"
    return f"{', '.join(works)} ({fast})", wrong


def memory() -> tuple[str, float]:
    """Return the memory that this process may have as a sentence, and the free share of it."""
    there = of_host()
    told = f"{there.free / GIB:,.1f} of {there.total / GIB:,.1f} GiB free of {there.what}"
    return told, there.free / max(1, there.total)


def disk(folder: Path, *, needed_bytes: int) -> tuple[str, str]:
    """Write into `folder`; return what is free there, and what is wrong, or an empty string."""
    try:
        free = shutil.disk_usage(folder).free
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIED_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}", "free room there, or another folder"
    told = f"{free / GIB:,.1f} GiB free in {folder}"
    if free < needed_bytes:
        need = f"{needed_bytes / GIB:,.1f} GiB"
        return f"{told}, of {need} that checkpoints need", "free room there, or another folder"
    return told, ""
