"""Which implementation of attention and softmax a forward pass takes."""

from enum import Enum
from typing import Literal

from torch import Tensor


class Kernels(Enum):
    """All compute the same."""

    PLAIN = "PyTorch's own operations, on any device"
    CPU = "autograd functions that keep less and pass over it less often"


def choose_kernels(setting: Literal["auto", "plain"], like: Tensor) -> Kernels:
    """The fastest for tensors such as `like`, or what the `setting` insists on."""
    if setting == "plain" or like.device.type != "cpu":
        return Kernels.PLAIN
    return Kernels.CPU
