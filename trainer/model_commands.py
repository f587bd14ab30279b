"""The commands of ``txl`` that run a model: what each is told, and what it does.

Heavy imports wait until a command runs.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from trainer.errors import InputError


@dataclass(frozen=True)
class Eval:
    """Score a split with a trained model: every token but the first, exactly once."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run")]
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
    """tokens of memory, or several lengths to compare: 0,150,640"""
    clamp_len: int | None = None
    """distances beyond this share a position; None is the recipe's"""
    same_length: bool | None = None
    """every query sees exactly mem_len keys; None is the recipe's"""
    batch_size: int | None = None
    """rows read side by side on one rank"""
    warm: Literal["exact", "near"] | None = None
    """how much text rows read ahead of their own"""
    no_memory: bool = False
    """score without memory too, and say what it gains"""
    precision: Literal["fp32", "bf16", "fp16", "bf16_autocast"] | None = None
    """None is the run's"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to run"""

    def run(self) -> None:
        """Evaluate; under torchrun or deepspeed, on all ranks together."""
        import torch.distributed as dist

        from trainer.distributed import complete_environ, join, this_process
        from trainer.scoring import EvalOptions, evaluate_run

        os.environ.update(complete_environ(os.environ))
        world = this_process(os.environ, device=self.device)
        options = EvalOptions(
            run=self.run_dir, checkpoint=self.checkpoint, split=self.split, data=self.data,
            tgt_len=self.tgt_len, mem_lens=_lengths(self.mem_len), clamp_len=self.clamp_len,
            same_length=self.same_length, batch_size=self.batch_size, warm=self.warm,
            no_memory=self.no_memory, precision=self.precision,
        )  # fmt: skip
        evaluate_run(options, join(world, timeout_s=600.0))
        if dist.is_initialized():
            dist.destroy_process_group()


@dataclass(frozen=True)
class Generate:
    """Continue a prompt, with the memory as the only cache."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run")]
    """directory of the run"""
    prompt: str = ""
    """text to continue; - reads standard input"""
    checkpoint: str = "best"
    """best, last, a step, or a path"""
    n_tokens: int = 200
    """tokens to make"""
    temperature: float = 0.8
    """0 takes the likeliest token"""
    seed: int = 0
    """of the draws"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to run"""

    def run(self) -> None:
        """Write the prompt and its continuation as it is made."""
        from trainer.distributed import choose_device
        from trainer.generate import Sampling, generate
        from trainer.inference import open_trained

        device = choose_device(self.device, local_rank=0)
        trained = open_trained(self.run_dir, which=self.checkpoint, precision=None, device=device)
        prompt = sys.stdin.read() if self.prompt == "-" else self.prompt
        sampling = Sampling(n_tokens=self.n_tokens, temperature=self.temperature, seed=self.seed)
        sys.stdout.write(prompt)
        with trained.autocast():
            for piece in generate(
                trained.module, trained.vocabulary, prompt=prompt, sampling=sampling,
                scoring=trained.experiment.eval, cutoffs=trained.experiment.model.cutoffs,
                dtype=trained.dtype, device=device,
            ):  # fmt: skip
                sys.stdout.write(piece)
                sys.stdout.flush()
        print()


def _lengths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--mem-len {text!r} is not a list of lengths such as 0,150,640") from None
