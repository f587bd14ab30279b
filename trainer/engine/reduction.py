"""Averaging gradients over ranks at ZeRO stage 0, in place.

DeepSpeed copies all gradients into one buffer, reduces that, and copies them back, also on a single
rank. A model's tables are nearly all of its gradient: they are reduced where they lie, and only
small gradients, for which a message each would cost more than a copy, are put together.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

#: Elements from which on a gradient is a message of its own.
LARGE = 1 << 18


def average_gradients(parameters: Sequence[nn.Parameter], *, world_size: int) -> None:
    """Replace every gradient by its mean over ranks; one that a rank lacks counts as zero there.

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
