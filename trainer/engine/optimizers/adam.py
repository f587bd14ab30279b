"""PyTorch's Adam without PyTorch's compiler.

The methods of PyTorch's optimizers import `torch._dynamo` to exempt themselves from compilation.
Nothing here is compiled, and the import costs every process 140 MiB and a second.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

_optimizer: Any = torch.optim.Optimizer


class Adam(torch.optim.Adam):
    """An Adam that takes PyTorch's steps; AdamW's with `decoupled_weight_decay`."""

    add_param_group = inspect.unwrap(_optimizer.add_param_group)
    zero_grad = inspect.unwrap(_optimizer.zero_grad)
    state_dict = inspect.unwrap(_optimizer.state_dict)
    load_state_dict = inspect.unwrap(_optimizer.load_state_dict)
    _update: Any = inspect.unwrap(torch.optim.Adam.step)

    grad_scale: Tensor | None = None
    """The next step divides all gradients by this; None is 1. Only used where `fused`."""
    found_inf: Tensor | None = None
    """If this is 1, the next step changes nothing; None is 0. Only used where `fused`."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
