"""Options of `txl eval`: its flags, with what each means, and all that an evaluation needs to know.

Neither torch nor deepspeed is imported: the command line is read before a command is known to need
them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.config.precision import Precision
from trainer.errors import InputError
from trainer.inference.improving.options import ImprovingOptions


@dataclass(frozen=True, kw_only=True)
class EvalOptions(ImprovingOptions):
    """Options of an evaluation of one run."""

    run_dir: Path
    """directory of the run"""
    checkpoint: str = "best"
    """best, last, a step, or a path"""
    split: Literal["train", "valid", "test"] = "test"
    """part of the corpus"""
    data: Path | None = None
    """corpus; None is the run's"""
    tgt_len: int | None = None
    """tokens scored per forward pass and row; None is the recipe's"""
    mem_len: str | None = None
    """tokens of memory, or several lengths to compare: 0,150,640; None is the recipe's"""
    clamp_len: int | None = None
    """distances beyond this share a position; None is the recipe's"""
    same_length: bool | None = None
    """every query sees exactly mem_len keys; None is the recipe's"""
    batch_size: int | None = None
    """rows read side by side on one rank; None is the recipe's"""
    warm: Literal["exact", "near"] | None = None
    """how much text rows read ahead of their own; None is the recipe's"""
    no_memory: bool = False
    """score without memory too, and say what it gains"""
    precision: Precision | None = None
    """of the arithmetic; None is the run's"""
    tune_tokens: int | None = None
    """tokens at the beginning of valid on which settings are tuned; None is all of it"""
    per_token: bool = False
    """file the nats of every scored token beside each result, for `txl report` and `txl compare`"""
    per_token_text: Path | None = None
    """write position, token and nats of every scored token to this file, tab-separated"""
    by_position: bool = False
    """score from empty memory too, and file the loss by the number of tokens read since"""
    by_position_tokens: int | None = None
    """the same in windows of so many tokens, each from empty memory; None is the whole text"""
    as_fairseq: bool = False
    """count as fairseq does, which skips a token per tgt_len and attends to empty memory"""
    trust_code: bool = False
    """run the code that the run names as its model (model.factory)"""

    @property
    def wants_positions(self) -> bool:
        """Return whether the loss by position is asked for."""
        return self.by_position or self.by_position_tokens is not None

    @property
    def mem_lens(self) -> tuple[int, ...] | None:
        """Return the lengths of memory to score with; None means the recipe's.

        Raises:
            InputError: `mem_len` is no list of numbers.
        """
        if self.mem_len is None:
            return None
        try:
            return tuple(int(part) for part in self.mem_len.split(","))
        except ValueError:
            raise InputError(
                f"--mem-len {self.mem_len!r} is not a list of lengths such as 0,150,640"
            ) from None
