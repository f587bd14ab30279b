"""Several segments read in one pass: the gradient of a step runs through all of them.

Williams and Peng (1990) call it BPTT(h; h'): every h' tokens an update, whose gradient runs back
through h tokens at most. Here both are `bptt_segments` segments, so that no token is read twice.
"""

import inspect
from typing import Any

import torch
from torch import nn

from trainer.engine.passes.extra_losses import ExtraLosses
from trainer.errors import InputError
from trainer.memory_tree import check_attached, detached
from trainer.protocol import Memory, Output, Segment


class Unrolled(nn.Module):
    """A model that also reads several segments in one forward pass.

    DeepSpeed sees one forward pass and one backward pass, as of any model.
    """

    def __init__(self, model: nn.Module) -> None:
        """Wrap a `trainer.protocol.RecurrentModel`, whose parameters stay the same objects.

        Raises:
            InputError: its forward does not take `attached`.
        """
        super().__init__()
        kinds = {p.name: p.kind for p in inspect.signature(model.forward).parameters.values()}
        if "attached" not in kinds and inspect.Parameter.VAR_KEYWORD not in kinds.values():
            raise InputError(
                f"{type(model).__name__}.forward takes no `attached`, which train.bptt_segments "
                "above 1 needs: let it take attached: bool = False and detach memory only if that "
                "is false, or use --train.bptt-segments 1"
            )
        self.model = model
        self._extra = ExtraLosses()
        self._has_checked_memory = False

    def forward(
        self,
        segment: Segment,
        memory: Memory,
        *,
        more: tuple[Segment, ...] = (),
        carries: bool = True,
        **lengths: Any,
    ) -> Output:
        """Read a segment, then those of `more`; return sums over all, and the last memory.

        Without `carries` each segment is read with `memory`.

        Raises:
            InputError: the model returns detached memory in the first pass.
        """
        if not more:
            alone: Output = self.model(segment, memory, **lengths)
            return alone
        outputs, before = [], memory
        how = lengths | {"attached": True} if carries else lengths
        for one in (segment, *more):
            output: Output = self.model(one, before, **how)
            outputs.append(output)
            before = output.memory if carries else memory
            if carries and self.training and not self._has_checked_memory:
                check_attached(before)
                self._has_checked_memory = True
        return self._joined(outputs)

    def _joined(self, outputs: list[Output]) -> Output:
        rows = [output.nll_BT for output in outputs if output.nll_BT is not None]
        extra = [self._extra.of(output) for output in outputs] if self.training else []
        names = extra[0] if extra else ()
        return Output(
            torch.stack([output.loss_sum for output in outputs]).sum(),
            torch.cat(rows, dim=1) if len(rows) == len(outputs) else None,
            detached(outputs[-1].memory),
            {name: torch.stack([of[name] for of in extra]).sum() for name in names} or None,
        )
