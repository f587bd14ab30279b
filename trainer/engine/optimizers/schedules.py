"""Learning rate as a pure function of the number of the update, counted from 1."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from trainer.config.experiment import OptimConfig


def cosine(
    update: int,
    *,
    lr: float,
    min_lr: float,
    warmup_steps: int,
    max_steps: int,
    warmup_init_lr: float | None = None,
    begins: Literal["warmup", "start"] = "warmup",
) -> float:
    """Return a rate that rises linearly, then falls as half a cosine to `min_lr`.

    With n = update - 1 and W = warmup_steps, the rate is init + n·(lr - init)/W for n < W, then
    min + ½(lr - min)(1 + cos π(n - C)/(max_steps - C)). Past the end it stays at `min_lr`.

    Args:
        update: the update that takes the rate, counted from 1.
        lr: the highest rate.
        min_lr: min, the rate at the end.
        warmup_steps: W.
        max_steps: the update after which the rate no longer changes.
        warmup_init_lr: init, the rate of the first update; None is `min_lr`, as in fairseq.
        begins: `warmup` counts the cosine from the end of warm-up (C = W: fairseq and NVIDIA),
            `start` from the first update (C = 0: kimiyoung).
    """
    n = update - 1
    if n < warmup_steps:
        first = min_lr if warmup_init_lr is None else warmup_init_lr
        return first + (lr - first) * n / warmup_steps
    if n >= max_steps:
        return min_lr
    before = warmup_steps if begins == "warmup" else 0
    progress = (n - before) / (max_steps - before)
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * progress))


class Schedule:
    """A scheduler of an optimizer's rate, in the form that DeepSpeed's engine expects.

    The rate follows from the number of updates alone, so a resumed run has the same rates.
    DeepSpeed's engine swallows a scheduler's TypeErrors, and takes a callable one for a factory.
    """

    def __init__(self, optimizer: Any, rate: Callable[[int], float]) -> None:
        """Set the first update's rate on `optimizer` (anything with torch's `param_groups`)."""
        self.optimizer, self.rate, self.updates = optimizer, rate, 0
        self._set()

    def step(self) -> None:
        """Count an applied update, and set the next one's rate."""
        self.updates += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        """Return the rate of the next update, per parameter group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, int]:
        """Return the number of updates applied so far."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after `state["updates"]` updates, at this schedule's own rate."""
        self.updates = state["updates"]
        self._set()

    def _set(self) -> None:
        rate = self.rate(self.updates + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def cosine_of(optim: OptimConfig, *, max_steps: int) -> Callable[[Any], Schedule]:
    """Return a function of an optimizer that makes the cosine of an experiment its schedule."""
    rate = partial(
        cosine,
        lr=optim.lr,
        min_lr=optim.min_lr,
        warmup_steps=optim.warmup_steps,
        max_steps=max_steps,
        warmup_init_lr=optim.warmup_init_lr,
        begins=optim.cosine_from,
    )
    return partial(Schedule, rate=rate)
