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
from trainer.outside import text_argument
from trainer.wording import printable_lines


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
    per_token: Path | None = None
    """write position, token and nats of every scored token to this file, tab-separated"""
    as_fairseq: bool = False
    """count as fairseq does, which skips a token per tgt_len and attends to empty memory"""
    trust_code: bool = False
    """run the code that the run names as its model (model.factory)"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to run"""

    def run(self) -> None:
        """Evaluate; under torchrun or deepspeed, on all ranks together."""
        import torch.distributed as dist

        from trainer.distributed import complete_environ, join, this_process
        from trainer.host_cpu import use_cpu_well
        from trainer.inference.evaluate import EvalOptions, evaluate_run
        from trainer.track.tracker import track_evaluations

        os.environ.update(complete_environ(os.environ))
        world = this_process(os.environ, device=self.device)
        if world.device.type == "cpu":
            use_cpu_well()
        options = EvalOptions(
            run=self.run_dir,
            checkpoint=self.checkpoint,
            split=self.split,
            data=self.data,
            tgt_len=self.tgt_len,
            mem_lens=_lengths(self.mem_len),
            clamp_len=self.clamp_len,
            same_length=self.same_length,
            batch_size=self.batch_size,
            warm=self.warm,
            no_memory=self.no_memory,
            precision=self.precision,
            per_token=self.per_token,
            as_fairseq=self.as_fairseq,
            trust=self.trust_code,
        )
        evaluate_run(options, join(world, timeout_s=600.0))
        if world.is_main:
            track_evaluations(self.run_dir, environ=os.environ)
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
    """0 takes the likeliest token; applied first, then top-k, then top-p"""
    top_k: int = 0
    """draw from this many of the likeliest tokens; 0 is all"""
    top_p: float = 1.0
    """draw from the fewest of the likeliest tokens that reach this probability; 1 is all"""
    stop: str | None = None
    """text before which the output ends"""
    seed: int = 0
    """of the draws"""
    trust_code: bool = False
    """run the code that the run names as its model (model.factory)"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to run"""

    def run(self) -> None:
        """Write the prompt and its continuation as it is made, until done or stopped."""
        try:
            self._write()
        except KeyboardInterrupt:
            print(flush=True)
            raise

    def _write(self) -> None:
        from trainer.budget.shortage import explained
        from trainer.distributed import choose_device
        from trainer.host_cpu import use_cpu_well
        from trainer.inference.generate import Sampling
        from trainer.inference.trained import open_trained

        stop = None if self.stop is None else text_argument(self.stop, name="--stop")
        sampling = Sampling(
            n_tokens=self.n_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
            stop=stop,
        )
        device = choose_device(self.device, local_rank=0)
        if device.type == "cpu":
            use_cpu_well()
        trained = open_trained(
            self.run_dir,
            which=self.checkpoint,
            precision=None,
            device=device,
            trust=self.trust_code,
        )
        prompt = _read_prompt(self.prompt)
        pieces = trained.stream(prompt, sampling)
        # A vocabulary of others may hold escape sequences: a file may have them, a terminal not.
        shown = printable_lines if sys.stdout.isatty() else str
        print(shown(prompt), end="", flush=True)
        lengths = trained.experiment.eval
        situation = (
            f"reading with tgt_len {lengths.tgt_len}, mem_len {lengths.mem_len} and a vocabulary "
            f"of {trained.vocabulary.size:,}: use a machine with more, or a run with a smaller "
            "--eval.mem-len or --eval.tgt-len"
        )
        with explained(None, lambda: situation):
            for piece in pieces:
                print(shown(piece), end="", flush=True)
        print(flush=True)


def _read_prompt(prompt: str) -> str:
    """The prompt, or standard input for ``-``."""
    if prompt == "-" and sys.stdin is None:
        raise InputError("--prompt - reads standard input, which is closed")
    if prompt != "-":
        return text_argument(prompt, name="the prompt")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeError:
        raise InputError("the prompt is not UTF-8: convert it, as with iconv -t UTF-8") from None


def _lengths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--mem-len {text!r} is not a list of lengths such as 0,150,640") from None
