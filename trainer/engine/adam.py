"""PyTorch's Adam without PyTorch's compiler.

The methods of its optimizers import `torch._dynamo` in order to except themselves from compilation,
which nothing here asks for: 140 MiB and a second of every process.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

_optimizer: Any = torch.optim.Optimizer


class Adam(torch.optim.Adam):
    """The same steps, and with `decoupled_weight_decay` AdamW's."""

    add_param_group = inspect.unwrap(_optimizer.add_param_group)
    zero_grad = inspect.unwrap(_optimizer.zero_grad)
    state_dict = inspect.unwrap(_optimizer.state_dict)
    load_state_dict = inspect.unwrap(_optimizer.load_state_dict)
    _update: Any = inspect.unwrap(torch.optim.Adam.step)

    grad_scale: Tensor | None = None
    """What the next step divides all gradients by; None is 1. Only where `fused`."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
