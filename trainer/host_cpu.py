"""Settings of a process that computes on the CPU."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# glibc's <malloc.h>
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3

#: Freed blocks of this size or more go back to the system. glibc cannot keep larger ones.
RETURNED_BYTES = 32 << 20


def use_cpu_well() -> None:
    """Keep freed memory for the next step, and let oneDNN multiply matrices.

    Every step frees and takes again the same tensors. By default glibc returns each large tensor to
    the kernel, which maps and clears new pages: a fifth of a small model's step. The tensors of
    large models are still returned. Their cost per byte is small; if they were kept, new tensors
    would not fit into their places, and a run with long segments would take a third more memory.

    oneDNN multiplies in fp32, and is faster where rows are no multiple of 16 bytes. On processors
    with AMX it would compute in bfloat16, so PyTorch's own choice stays there.
    """
    _set(_MMAP_THRESHOLD, RETURNED_BYTES)
    _set(_TRIM_THRESHOLD, -1)
    _set(_TOP_PAD, 64 << 20)
    if not torch.cpu.get_capabilities().get("amx_bf16"):
        torch.set_float32_matmul_precision("medium")


@contextmanager
def returning_freed() -> Iterator[None]:
    """Return freed memory from 1 MiB on to the system, as `use_cpu_well` does for larger blocks.

    What takes and frees many parameters one after another, and what lasts between them, would leave
    a heap of holes as large as all of them.
    """
    _set(_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        _set(_MMAP_THRESHOLD, RETURNED_BYTES)


def _set(parameter: int, value: int) -> None:
    """Set a parameter of glibc's memory allocator, where there is one."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # musl has no mallopt
            mallopt(parameter, value)


@contextmanager
def multiplying_few_rows() -> Iterator[None]:
    """Let PyTorch choose who multiplies in fp32: oneDNN is up to 1.5 times slower for one row."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
