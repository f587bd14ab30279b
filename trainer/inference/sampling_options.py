"""Options of sampling: how `txl generate`, a run's samples and `trainer.load` choose tokens.

A value that is out of range raises `InputError`. Neither torch nor deepspeed is imported: the
command line is read before a command is known to need them.
"""

import math
from dataclasses import dataclass

from trainer.errors import InputError
from trainer.inference.improving.options import ImprovingOptions


@dataclass(frozen=True, kw_only=True)
class Sampling(ImprovingOptions):
    """Choice of the next token, and of the place where the text ends."""

    n_tokens: int
    """tokens to make"""
    temperature: float = 1.0
    """0 takes the likeliest token; applied first, then top-k, then top-p"""
    top_k: int = 0
    """draw from this many of the likeliest tokens; 0 is all"""
    top_p: float = 1.0
    """draw from the fewest of the likeliest tokens that reach this probability; 1 is all"""
    stop: str | None = None
    """text before which the output ends"""
    seed: int = 0
    """of the draws"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if problems := self._problems():
            raise InputError(f"sampling: {'; '.join(problems)}")

    def _problems(self) -> list[str]:
        checks = {
            f"n_tokens {self.n_tokens} is below 1": self.n_tokens >= 1,
            f"temperature {self.temperature} is negative or no number": (
                0 <= self.temperature < math.inf
            ),
            f"top_k {self.top_k} is negative; 0 is all tokens": self.top_k >= 0,
            f"top_p {self.top_p} is not above 0 and at most 1": 0 < self.top_p <= 1,
            f"seed {self.seed} is not between 0 and 2^64-1": 0 <= self.seed < 1 << 64,
            "stop is an empty text, which is everywhere": self.stop != "",
        }
        return [problem for problem, holds in checks.items() if not holds]
