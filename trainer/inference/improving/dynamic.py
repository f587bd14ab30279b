"""Dynamic evaluation (Krause et al. 2018, arXiv 1709.07432, and 2019, arXiv 1904.08378).

Each segment is first scored, then learnt: with g the gradient of its nats over tgt_len, θ₀ the
trained weights, rate η and decay λ,

    sgd: θ ← θ − η g + λ (θ₀ − θ)
    rms: θ ← θ − η g/(r + ε) + min(λ r/r̄, 1) (θ₀ − θ)

where r is the root of a weight's second moment in training, which a checkpoint holds, and r̄ its
mean over all weights. The moments are not corrected for their bias, which the rate takes up. ε is
a share of r̄, so it means the same whatever the batch was that training averaged over.

What is read first changes what comes after it, segment by segment. So there is one row on one rank,
and tgt_len is part of the method. Where memory is cut at a document's start the weights learnt so
far are kept, as in the papers. Weights are fp32 at least, and no dropout is applied.
"""

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainer.errors import InputError, NonFiniteError, first_few
from trainer.protocol import Memory, Output, Segment, forward_with_hidden
from trainer.track.method import Dynamic

#: ε, as a share of the mean root of the second moments.
EPSILON = 0.1


class Learner:
    """A `trainer.inference.score.Forward` that learns every segment after it has scored it.

    It has a copy of the model, and the model stays as it is.
    """

    def __init__(
        self,
        model: nn.Module,
        dynamic: Dynamic,
        *,
        tgt_len: int,
        second_moments: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Begin with the weights of a model in evaluation mode.

        Args:
            model: a `RecurrentModel`.
            dynamic: rule, rate and decay.
            tgt_len: tokens of a whole segment.
            second_moments: those of each parameter by its name, of the rule `rms`.

        Raises:
            InputError: the rule is `rms`, and a second moment is missing.
        """
        dtype = next(model.parameters()).dtype
        self.model = copy.deepcopy(model).to(torch.promote_types(dtype, torch.float32))
        self._weights = list(self.model.requires_grad_(True).parameters())
        self._trained = [weight.detach().clone() for weight in self._weights]
        self._tgt_len, self._rate = tgt_len, dynamic.rate
        self._divisors: list[Tensor] | None = None
        self._decays: list[Tensor] | list[float] = [dynamic.decay] * len(self._weights)
        if dynamic.rule == "rms":
            roots = _roots(self.model, second_moments)
            mean = sum(float(root.double().sum()) for root in roots) / sum(map(torch.numel, roots))
            if not mean > 0:
                raise InputError("the checkpoint's second moments are all 0: use --dynamic sgd")
            self._divisors = [root + EPSILON * mean for root in roots]
            self._decays = [(root * (dynamic.decay / mean)).clamp_max(1) for root in roots]

    def first_memory(self, n_rows: int, mem_len: int) -> Memory:
        """Return the memory of rows that have read nothing, for weights that change."""
        like, model = self._weights[0], cast(Any, self.model)
        memory: Memory = model.empty_memory(
            n_rows, mem_len=mem_len, dtype=like.dtype, device=like.device
        )
        return memory

    def __call__(
        self, segment: Segment, memory: Memory, *, clamp_len: int | None, same_length: bool
    ) -> Output:
        """Score a segment, then learn it.

        Raises:
            NonFiniteError: what was learnt before made its nats infinite or nan.
        """
        with _reading(self._weights[0].device):
            output: Output = self.model(
                segment, memory, clamp_len=clamp_len, same_length=same_length
            )
        return self._learnt(output, segment)

    def states(
        self, segment: Segment, memory: Memory, *, clamp_len: int | None, same_length: bool
    ) -> tuple[Output, Tensor]:
        """Do what a call does, and return the hidden states too, `[B, T, D]`."""
        with _reading(self._weights[0].device):
            output, hidden_BTD = forward_with_hidden(
                self.model, segment, memory, clamp_len=clamp_len, same_length=same_length
            )
        return self._learnt(output, segment), hidden_BTD

    def _learnt(self, output: Output, segment: Segment) -> Output:
        """Learn a segment, given its output, which is returned without its graph."""
        if segment.n_tokens:
            if not bool(output.loss_sum.isfinite()):
                raise NonFiniteError(
                    "dynamic evaluation: the weights learnt while reading give no finite loss any "
                    "more: lower --dynamic-rate"
                )
            share = torch.full_like(output.loss_sum, 1 / self._tgt_len)
            output.loss_sum.backward(share)  # type: ignore[no-untyped-call]
            self._update()
        return output._replace(loss_sum=output.loss_sum.detach())

    @torch.no_grad()
    def _update(self) -> None:
        """Take the step, and forget the gradients."""
        for i, weight in enumerate(self._weights):
            if weight.grad is None:
                continue
            step = weight.grad if self._divisors is None else weight.grad / self._divisors[i]
            back = (self._trained[i] - weight) * self._decays[i]
            weight.add_(back).add_(step, alpha=-self._rate)
            weight.grad = None


def _reading(device: torch.device) -> ExitStack:
    """Return the context of a pass: with gradients, without autocast.

    cuDNN's recurrent layers have no gradient in evaluation mode; those of PyTorch have.
    """
    stack = ExitStack()
    stack.enter_context(torch.enable_grad())
    stack.enter_context(torch.autocast(device.type, enabled=False))
    if device.type == "cuda":
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
    return stack


def _roots(model: nn.Module, second_moments: Mapping[str, Tensor] | None) -> list[Tensor]:
    """Return the roots of the second moments of a model's parameters, in their order."""
    if second_moments is None:
        raise InputError(
            "--dynamic rms needs the second moments of a checkpoint of a run, and an export, an "
            "import or a run without an update has none: use --dynamic sgd"
        )
    missing = [name for name, _ in model.named_parameters() if name not in second_moments]
    if missing:
        raise InputError(
            f"the checkpoint has no second moments of {first_few(missing)}: use --dynamic sgd"
        )
    return [
        second_moments[name].to(device=weight.device, dtype=weight.dtype).sqrt()
        for name, weight in model.named_parameters()
    ]
