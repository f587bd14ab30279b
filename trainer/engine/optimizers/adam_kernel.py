"""Adam's step of all parameters in one kernel, which writes their 16-bit copies too, in Triton.

PyTorch's own kernel would write every gradient that it scales, and to make the copies every new
weight would be read again. Here 30 bytes an element are moved: four numbers are read in fp32, three
are written, and one in 16 bits.

N elements of a parameter · P parameters · C chunks, which are programs.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

#: Elements of a chunk.
_BLOCK = 1024


class Tensors(NamedTuple):
    """The tensors of one parameter in fp32, all of one layout, and its copy if it has one."""

    weight: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor
    """The number of the next step from 1 on, as a float."""
    copy: Tensor | None


class Rule(NamedTuple):
    """Adam's settings but for its rate, see `torch.optim.Adam`."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    decoupled: bool


class Places:
    """The addresses of all parameters' tensors, on their device."""

    def __init__(self, parameters: Sequence[Tensors]) -> None:
        """Note where tensors lie, which must be kept as long as this is used."""
        for tensors in parameters:
            _check(tensors)
        device = parameters[0].weight.device
        sizes = [tensors.weight.numel() for tensors in parameters]
        chunks = [triton.cdiv(size, _BLOCK) for size in sizes]
        addresses = [[0 if x is None else x.data_ptr() for x in t] for t in parameters]
        self.address_P6 = _on(device, torch.tensor(addresses, dtype=torch.int64))
        self.size_P = _on(device, torch.tensor(sizes, dtype=torch.int64))
        owner_C = np.repeat(np.arange(len(sizes), dtype=np.int32), chunks)
        first_C = np.concatenate([np.arange(n, dtype=np.int32) for n in chunks])
        self.owner_C, self.first_C = (_on(device, torch.from_numpy(x)) for x in (owner_C, first_C))
        copies = [tensors.copy for tensors in parameters if tensors.copy is not None]
        self.like_copies = copies[0] if copies else parameters[0].weight

    def step(
        self,
        rule: Rule,
        *,
        lr: float,
        found_inf: Tensor | None,
        grad_scale: Tensor | None,
    ) -> None:
        """Take a step, and write the copies.

        Args:
            rule: Adam's settings.
            lr: the learning rate.
            found_inf: if this is 1, nothing is changed; None is 0.
            grad_scale: gradients are divided by this; None is 1.
        """
        beta1, beta2 = rule.betas
        _adam_kernel[(len(self.owner_C),)](
            self.address_P6,
            self.size_P,
            self.owner_C,
            self.first_C,
            self.like_copies,
            lr,
            found_inf,
            grad_scale,
            BETA1=beta1,
            BETA2=beta2,
            LOG_BETA1=math.log(beta1) if beta1 > 0 else -1e30,
            LOG_BETA2=math.log(beta2) if beta2 > 0 else -1e30,
            EPS=rule.eps,
            DECAY=rule.weight_decay,
            DECOUPLED=rule.decoupled,
            BLOCK=_BLOCK,
        )


def _on(device: torch.device, x: Tensor) -> Tensor:
    """Return a tensor of the host on a device, without waiting for the device."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


def _check(tensors: Tensors) -> None:
    weight = tensors.weight
    for x in tensors[:4]:
        assert (x.dtype, x.stride()) == (torch.float32, weight.stride()), "one dtype and layout"
    assert weight.is_contiguous(), "elements lie side by side"
    assert tensors.copy is None or tensors.copy.stride() == weight.stride(), "one layout"


@triton.jit
def _adam_kernel(
    address_P6, size_P, owner_C, first_C, like_copies, lr, found_inf, grad_scale,
    BETA1: tl.constexpr, BETA2: tl.constexpr, LOG_BETA1: tl.constexpr, LOG_BETA2: tl.constexpr,
    EPS: tl.constexpr, DECAY: tl.constexpr, DECOUPLED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Update a chunk of a parameter; `like_copies` has the dtype of the copies."""
    changes = True
    if found_inf is not None:
        changes = tl.load(found_inf) == 0
    if changes:
        chunk = tl.program_id(0)
        owner = tl.load(owner_C + chunk).to(tl.int64)
        first = tl.load(first_C + chunk).to(tl.int64) * BLOCK
        factor = 1.0
        if grad_scale is not None:
            factor = 1.0 / tl.load(grad_scale).to(tl.float32)
        # In fp64: the second is 0.001 at first, and fp32 would keep four digits of it.
        step_64 = tl.load(place(address_P6, owner, 4)).to(tl.float64)
        rate = (lr / (1.0 - tl.exp(step_64 * LOG_BETA1))).to(tl.float32)
        widen = (1.0 / tl.sqrt(1.0 - tl.exp(step_64 * LOG_BETA2))).to(tl.float32)
        at_N = first + tl.arange(0, BLOCK)
        inside_N = at_N < tl.load(size_P + owner)
        weights = place(address_P6, owner, 0) + at_N
        gradients = place(address_P6, owner, 1) + at_N
        averages = place(address_P6, owner, 2) + at_N
        squares = place(address_P6, owner, 3) + at_N
        weight_N = tl.load(weights, inside_N, other=0.0)
        gradient_N = tl.load(gradients, inside_N, other=0.0) * factor
        if DECAY != 0 and not DECOUPLED:
            gradient_N += DECAY * weight_N
        if DECAY != 0 and DECOUPLED:
            weight_N -= lr * DECAY * weight_N
        average_N = BETA1 * tl.load(averages, inside_N, other=0.0) + (1 - BETA1) * gradient_N
        square_N = tl.load(squares, inside_N, other=0.0)
        square_N = BETA2 * square_N + (1 - BETA2) * gradient_N * gradient_N
        weight_N -= rate * average_N / (tl.sqrt(square_N) * widen + EPS)
        tl.store(weights, weight_N, inside_N)
        tl.store(averages, average_N, inside_N)
        tl.store(squares, square_N, inside_N)
        address = tl.load(address_P6 + owner * 6 + 5)
        if address != 0:
            copies = address.to(tl.pointer_type(like_copies.dtype.element_ty))
            tl.store(tl.multiple_of(copies, 16) + at_N, weight_N, inside_N)


@triton.jit
def place(address_P6, owner, kind: tl.constexpr):
    """Return where a parameter's tensor of some kind begins, at a multiple of 16 bytes."""
    address = tl.load(address_P6 + owner * 6 + kind)
    return tl.multiple_of(address.to(tl.pointer_type(tl.float32)), 16)
