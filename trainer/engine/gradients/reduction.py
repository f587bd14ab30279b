"""Averaging gradients over ranks at ZeRO stage 0, in place.

DeepSpeed copies all gradients into one buffer, reduces the buffer, and copies it back, even on a
single rank. Here large gradients, mostly those of the tables, are reduced in place. Only small
gradients are copied into one buffer: a message for each would cost more than the copy.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

#: A gradient of so many elements or more is sent as a message of its own.
LARGE = 1 << 18


def average_gradients(parameters: Sequence[nn.Parameter], *, world_size: int) -> None:
    """Replace every gradient by its mean over ranks; a missing gradient counts as zero.

    Collective, in the default process group; all ranks pass the same parameters.
    """
    if world_size == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    under_way = [dist.all_reduce(g, async_op=True) for g in grads if g.numel() >= LARGE]
    small = [g for g in grads if g.numel() < LARGE]
    if small:
        together = torch.cat([g.reshape(-1) for g in small])
        dist.all_reduce(together)
        parts = torch.split(together, [g.numel() for g in small])
        for grad, part in zip(small, parts, strict=True):
            grad.copy_(part.view_as(grad))
    for work in under_way:
        work.wait()
    torch._foreach_mul_(grads, 1 / world_size)
