"""PyTorch's Adam without PyTorch's compiler.

The methods of PyTorch's optimizers import `torch._dynamo` to exempt themselves from compilation.
Nothing here is compiled, and the import costs every process 140 MiB and a second.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from trainer.engine.optimizers.copying_steps import CopyingSteps

_optimizer: Any = torch.optim.Optimizer


class Adam(torch.optim.Adam):
    """An Adam that takes PyTorch's steps; AdamW's with `decoupled_weight_decay`."""

    add_param_group = inspect.unwrap(_optimizer.add_param_group)
    zero_grad = inspect.unwrap(_optimizer.zero_grad)
    state_dict = inspect.unwrap(_optimizer.state_dict)
    load_state_dict = inspect.unwrap(_optimizer.load_state_dict)
    _update: Any = inspect.unwrap(torch.optim.Adam.step)
    _copying: CopyingSteps | None = None

    grad_scale: Tensor | None = None
    """The next step divides all gradients by this; None is 1. Only used where `fused`."""
    found_inf: Tensor | None = None
    """If this is 1, the next step changes nothing; None is 0. Only used where `fused`."""

    def write_copies(self) -> None:
        """From now on have each step write the copies of weights, see `copies`; where `fused`."""
        self._copying = CopyingSteps()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step."""
        if self._copying is None:
            return self._update(closure)
        (group,) = self.param_groups
        flags = {"found_inf": self.found_inf, "grad_scale": self.grad_scale}
        return self._copying.take(group, self.state, **flags)
