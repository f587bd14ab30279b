"""PyTorch's Adam without PyTorch's compiler, and for gradients that are not there whole.

The methods of its optimizers import `torch._dynamo` in order to except themselves from compilation,
which nothing here asks for: 140 MiB and a second of every process.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from trainer.model.table_gradients import TableGradient, TableGradients

_optimizer: Any = torch.optim.Optimizer


class Adam(torch.optim.Adam):
    """The same steps, and with `decoupled_weight_decay` AdamW's."""

    add_param_group = inspect.unwrap(_optimizer.add_param_group)
    zero_grad = inspect.unwrap(_optimizer.zero_grad)
    state_dict = inspect.unwrap(_optimizer.state_dict)
    load_state_dict = inspect.unwrap(_optimizer.load_state_dict)
    _update: Any = inspect.unwrap(torch.optim.Adam.step)

    table_gradients: TableGradients | None = None
    """Gradients that no parameter has as its `grad`; a step takes and forgets them.

    Their parameters are contiguous and have moments. Only where `fused`, with one group.
    """
    grad_scale: Tensor | None = None
    """What the next step divides all gradients by; None is 1. Only where `fused`."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = self._update(closure)
        if self.table_gradients is not None:
            (group,) = self.param_groups
            for gradient in self.table_gradients:
                self._update_by_pieces(gradient, group)
            self.table_gradients.clear()
        return loss

    def _update_by_pieces(self, gradient: TableGradient, group: dict[str, Any]) -> None:
        parameters = gradient.parameters
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        for words, *grads in gradient.pieces():
            adam(
                [parameter[words] for parameter in parameters],
                grads,
                [state["exp_avg"][words] for state in states],
                [state["exp_avg_sq"][words] for state in states],
                [],
                [state["step"].clone() for state in states],
                fused=True,
                grad_scale=self.grad_scale,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
                decoupled_weight_decay=group["decoupled_weight_decay"],
            )
        for state in states:
            state["step"] += 1
