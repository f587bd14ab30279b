"""Learning rate as a pure function of the update it is used for, counted from 1."""

import math
from collections.abc import Callable
from typing import Any


def cosine(update: int, *, lr: float, min_lr: float, warmup_steps: int, max_steps: int) -> float:
    """Linear warm-up from `min_lr`, then half a cosine down to `min_lr` (fairseq's ``cosine``).

    With n = update - 1: n·(lr - min)/W + min below W = warmup_steps, then
    min + ½(lr - min)(1 + cos π(n - W)/(max_steps - W)). Past the end it stays at `min_lr`.
    """
    n = update - 1
    if n < warmup_steps:
        return min_lr + (lr - min_lr) * n / warmup_steps
    if n >= max_steps:
        return min_lr
    progress = (n - warmup_steps) / max(1, max_steps - warmup_steps)
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * progress))


class Schedule:
    """Sets an optimizer's rate for the next update, in the form DeepSpeed's engine expects.

    Nothing accumulates: the rate follows from the number of updates applied, also after a resume.
    The engine swallows TypeErrors of a scheduler and mistakes a callable one for a factory.
    """

    def __init__(self, optimizer: Any, rate: Callable[[int], float]) -> None:
        """Set the first update's rate on `optimizer` (anything with torch's `param_groups`)."""
        self.optimizer, self.rate, self.updates = optimizer, rate, 0
        self._set()

    def step(self) -> None:
        """An update was applied."""
        self.updates += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        """Rate of the next update, per parameter group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, int]:
        """Updates applied so far."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after `state["updates"]` updates, at this schedule's own rate."""
        self.updates = state["updates"]
        self._set()

    def _set(self) -> None:
        rate = self.rate(self.updates + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
