"""Which implementation of layers and softmax a forward pass takes."""

import logging
from enum import Enum
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

log = logging.getLogger(__name__)

#: Of an A100: the first that multiplies bf16.
_LEAST_CAPABILITY = (8, 0)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Kernels(Enum):
    """All compute the same."""

    PLAIN = "PyTorch's own operations, on any device"
    CPU = "autograd functions that keep less and pass over it less often"
    TRITON = "aligned rows and fused kernels, on NVIDIA's GPUs from the A100 on"


def choose_kernels(setting: Literal["auto", "plain"], like: Tensor) -> Kernels:
    """The fastest for tensors such as `like`, or what the `setting` insists on."""
    return kernels_for(setting, like.device, like.dtype)


def kernels_for(
    setting: Literal["auto", "plain"], device: torch.device, dtype: torch.dtype
) -> Kernels:
    """As `choose_kernels`, of tensors that are not there."""
    if setting == "plain":
        return Kernels.PLAIN
    if device.type == "cpu":
        return Kernels.CPU
    return Kernels.TRITON if _has_triton(device, dtype) else Kernels.PLAIN


@cache
def _has_triton(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether Triton's kernels run there; logs once why not."""
    obstacle = None
    if device.type != "cuda" or torch.version.cuda is None:
        obstacle = f"they are not for {device.type} without NVIDIA's CUDA"
    elif torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        obstacle = f"{torch.cuda.get_device_name(device)} is older than an A100"
    elif dtype not in _DTYPES:
        obstacle = f"they are not for {dtype}"
    elif find_spec("triton") is None:
        obstacle = "triton is not installed"
    if obstacle is not None:
        log.warning("PyTorch's own operations instead of Triton kernels: %s", obstacle)
    return obstacle is None
