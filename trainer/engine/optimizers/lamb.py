"""LAMB (You et al. 2019, arXiv 1904.00962v3): Adam's step, rescaled matrix by matrix.

With weights w, gradients g and moments m = b1·m + (1 - b1)·g, v = b2·v + (1 - b2)·g², which are not
corrected for their bias:

    u = m/(√v + eps) + weight_decay·w
    trust = min(‖w‖, 10)/(‖u‖ + eps), and 1 where either norm is 0
    w -= lr·trust·u

The norms are of whole matrices. ZeRO gives the optimizer flat tensors with fragments of matrices,
cut anywhere between ranks. So squares are summed by fragment, then by matrix, then over ranks.

F fragments in the tensors of one call · N matrices of the model.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.engine.full_state import Fragment
from trainer.model.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from trainer.model.attention import RelativeAttention

#: A matrix of a larger norm gets the trust of one of this norm.
MAX_WEIGHT_NORM = 10.0


def matrices(model: nn.Module) -> dict[str, str]:
    """Return for each parameter the name of its matrix's first part: mostly its own name.

    We cut some matrices of the authors' model for speed: the one projection of queries, keys and
    values, and the one table and one bias of all words where all clusters are equally wide.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    found = {name: name for name in names.values()}
    for module in model.modules():
        parts: list[list[Tensor]] = []
        if isinstance(module, RelativeAttention):
            parts = [[module.query.weight, module.key_value.weight]]
        elif isinstance(module, AdaptiveEmbedding | AdaptiveSoftmax):
            if len({table.shape[1] for table in module.tables}) > 1:
                continue
            parts = [list(module.tables)]
            if isinstance(module, AdaptiveSoftmax):
                parts.append(list(module.biases))
        for first, *others in parts:
            found |= {names[id(other)]: names[id(first)] for other in others}
    return found


class Lamb(torch.optim.Optimizer):
    """LAMB with moments named as Adam's; `cut` must be called before the first step."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self._matrices: dict[Tensor, list[int]] = {}
        self._fragments: dict[Tensor, list[Fragment]] = {}
        self._membership_FN: dict[Tensor, Tensor] = {}
        self._sum_over_ranks: Callable[[Tensor], Any] | None = None

    def cut(
        self,
        fragments: Mapping[Tensor, Sequence[Fragment]],
        *,
        matrices: Mapping[str, str],
        sum_over_ranks: Callable[[Tensor], Any] | None,
    ) -> None:
        """Set which fragments of which matrices the optimizer's tensors hold.

        Args:
            fragments: the fragments in each tensor of this rank; no step changes what lies between.
            matrices: for each parameter, the name of its matrix.
            sum_over_ranks: sums a tensor over ranks in place; None if no rank lacks a fragment.
        """
        numbers = {name: i for i, name in enumerate(sorted(set(matrices.values())))}
        self._sum_over_ranks = sum_over_ranks
        for flat, parts in fragments.items():
            numbered = [numbers[matrices[part.name]] for part in parts]
            index_F = torch.tensor(numbered, dtype=torch.long, device=flat.device)
            self._fragments[flat], self._matrices[flat] = list(parts), numbered
            self._membership_FN[flat] = F.one_hot(index_F, len(numbers)).double()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every tensor that has a gradient. Collective, with one sum over ranks."""
        for group in self.param_groups:
            flats = [flat for flat in group["params"] if flat.grad is not None]
            if flats:
                self._update(flats, group)

    def _update(self, flats: list[Tensor], group: dict[str, Any]) -> None:
        """Update the tensors of a parameter group that have a gradient."""
        (b1, b2), eps = group["betas"], group["eps"]
        grads = [flat.grad for flat in flats if flat.grad is not None]
        states = [self._state_of(flat) for flat in flats]
        averages = [state["exp_avg"] for state in states]
        squares = [state["exp_avg_sq"] for state in states]
        for state in states:
            state["step"] += 1
        torch._foreach_mul_(averages, b1)
        torch._foreach_add_(averages, grads, alpha=1 - b1)
        torch._foreach_mul_(squares, b2)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - b2)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_add_(denominators, eps)
        steps = torch._foreach_div(averages, denominators)
        if group["weight_decay"]:
            torch._foreach_add_(steps, flats, alpha=group["weight_decay"])
        weight_parts, step_parts = self._parts(flats, flats), self._parts(flats, steps)
        trust_N = self._trust(flats, weight_parts, step_parts, eps=eps)
        rates = (group["lr"] * trust_N).to(flats[0].dtype).unbind()
        matrices = [matrix for flat in flats for matrix in self._matrices[flat]]
        for weight, step, matrix in zip(weight_parts, step_parts, matrices, strict=True):
            weight.addcmul_(step, rates[matrix], value=-1)

    def _state_of(self, flat: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[flat]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(flat), torch.zeros_like(flat)
        return state

    def _parts(self, flats: list[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
        """Return the fragments of `values`, which have the places of those in `flats`."""
        return [
            value.view(-1).narrow(0, part.start, part.numel)
            for flat, value in zip(flats, values, strict=True)
            for part in self._fragments[flat]
        ]

    def _trust(
        self, flats: list[Tensor], weights: list[Tensor], steps: list[Tensor], *, eps: float
    ) -> Tensor:
        """Return the trust ratio of every matrix of this call, `[N]` in fp64 on the device.

        In fp32 a CPU's norm of 50 million normal elements was off by 0.4 %.
        """
        membership_FN = torch.cat([self._membership_FN[flat] for flat in flats])
        squares_2N = membership_FN.new_zeros(2, membership_FN.shape[1])
        if weights:  # one of many ranks may have no fragment
            norms = torch._foreach_norm(weights + steps, 2, dtype=torch.float64)
            squares_2N = torch.stack(norms).square().view(2, -1) @ membership_FN
        if self._sum_over_ranks is not None:
            self._sum_over_ranks(squares_2N)
        weight_N, step_N = squares_2N.sqrt().unbind()
        trust_N = weight_N.clamp(max=MAX_WEIGHT_NORM) / (step_N + eps)
        return torch.where((weight_N > 0) & (step_N > 0), trust_N, 1.0)
