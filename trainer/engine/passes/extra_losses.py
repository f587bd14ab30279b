"""Named losses that a model has beside its nats, such as the balance of experts.

They are sums over the tokens of a segment, and share the factor of the sum of nats in the backward
pass. No nats, perplexity or best loss counts them.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from trainer.errors import InputError
from trainer.outside import shortened
from trainer.protocol import Output

_NAME = re.compile("[a-z_]+")


class ExtraLosses:
    """A model's extra losses, whose names never change."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] | None = None
        """Their names; None before the first pass."""

    def of(self, output: Output) -> dict[str, Tensor]:
        """Return the extra losses of a training pass, always in the same order.

        Raises:
            InputError: a name is none, a loss is no number, or the names are others than before.
        """
        losses = output.extra or {}
        if self.names is None:
            _check(losses)
            self.names = tuple(losses)
        elif losses.keys() != set(self.names):
            had, has = (", ".join(names) or "none" for names in (self.names, losses))
            raise InputError(
                f"the model's extra losses were {had} and are {has}: let forward return the same "
                "names in every training pass, with 0 where there is nothing to add"
            )
        return {name: losses[name] for name in self.names}


def _check(losses: Mapping[str, Tensor]) -> None:
    for name, loss in losses.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(
                f"the model's extra loss {shortened(name)} has no name: use a to z and _ alone"
            )
        if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
            raise InputError(
                f"the model's extra loss {name} is no tensor of one number: let forward return "
                "its sum over the segment's tokens"
            )


def blamed(nats_B: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
    """Return the nats of streams, not finite if an extra loss is not: it may come from any."""
    for loss in extra.values():
        nats_B = nats_B.where(loss.detach().isfinite(), float("nan"))
    return nats_B
