"""Steps of Adam that write the 16-bit copies of the weights, too."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.model.triton.copies import computed

if TYPE_CHECKING:
    from trainer.engine.optimizers.adam_kernel import Places


class CopyingSteps:
    """Adam's steps by one kernel, which knows where the tensors of all parameters lie."""

    def __init__(self) -> None:
        self._places: Places | None = None
        self._known: list[Any] = []

    def take(
        self,
        group: dict[str, Any],
        state: dict[Tensor, dict[str, Tensor]],
        *,
        found_inf: Tensor | None,
        grad_scale: Tensor | None,
    ) -> None:
        """Take a step with the gradients that there are, see `Adam`.

        Args:
            group: the settings and parameters of a PyTorch optimizer.
            state: its moments and steps, which are there before the first step.
            found_inf: see `Adam`.
            grad_scale: likewise.
        """
        from trainer.engine.optimizers.adam_kernel import Rule

        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        steps = [state[p]["step"] for p in parameters]
        if found_inf is None:
            torch._foreach_add_(steps, 1.0)
        else:  # in a list: of a lone tensor it asks the device for the value
            torch._foreach_add_(steps, [1.0 - found_inf] * len(steps))
        rule = Rule(
            group["betas"], group["eps"], group["weight_decay"], group["decoupled_weight_decay"]
        )
        for parameter in parameters:
            _lay_out_as_weight(parameter)
        places = self._places_of(parameters, state)
        flags = {"found_inf": found_inf, "grad_scale": grad_scale}
        places.step(rule, lr=group["lr"], **flags)

    def _places_of(
        self, parameters: list[Tensor], state: dict[Tensor, dict[str, Tensor]]
    ) -> "Places":
        """Return where tensors lie: where they did, unless a gradient or a moment has moved."""
        from trainer.engine.optimizers.adam_kernel import Places, Tensors

        known = [
            (grad.data_ptr(), state[p]["exp_avg"].data_ptr())
            for p in parameters
            if (grad := p.grad) is not None
        ]
        if self._places is None or known != self._known:
            self._known = known
            self._places = Places([Tensors(*_tensors(p, state[p])) for p in parameters])
        return self._places


def _lay_out_as_weight(parameter: Tensor) -> None:
    """Put a gradient of another layout into one of the weight's, of which a step reads all."""
    gradient = parameter.grad
    assert gradient is not None
    if gradient.stride() != parameter.stride():
        parameter.grad = torch.empty_like(parameter).copy_(gradient)


def _tensors(
    parameter: Tensor, state: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    weight, gradient, copy = parameter.detach(), parameter.grad, computed(parameter)
    assert gradient is not None
    own = state["exp_avg"], state["exp_avg_sq"], state["step"]
    return weight, gradient, *own, None if copy is parameter else copy
