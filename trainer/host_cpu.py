"""Settings of a process that computes on the CPU."""

import ctypes
import sys

import torch

# glibc's <malloc.h>
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3

#: Blocks as large go back to the system when they are freed. It is the most that glibc can keep.
RETURNED_BYTES = 32 << 20


def use_cpu_well() -> None:
    """Keep freed memory for the next step, and let oneDNN multiply matrices.

    A step frees and takes again the same tensors. By default glibc gives each large one back to the
    kernel, which has to map and clear its pages anew: a fifth of a step of a small model. Those of
    large ones still go back, where much is computed for every byte: kept, what is asked for next
    does not fit where they were, and a run with long segments would take a third more memory.

    oneDNN multiplies in fp32, and is the faster one where rows are no multiple of 16 bytes; on
    processors with AMX it would compute in bfloat16, so there PyTorch's own choice stays.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # musl has none
            mallopt(_MMAP_THRESHOLD, RETURNED_BYTES)
            mallopt(_TRIM_THRESHOLD, -1)
            mallopt(_TOP_PAD, 64 << 20)
    if not torch.cpu.get_capabilities().get("amx_bf16"):
        torch.set_float32_matmul_precision("medium")
