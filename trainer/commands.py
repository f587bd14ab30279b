"""The commands of ``txl``: what each is told, field by field, and what it does.

Heavy imports wait until a command runs: those that only read import neither torch nor deepspeed.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from trainer.data.prepare import PrepareOptions, prepare
from trainer.errors import Exit, InputError


@dataclass(frozen=True)
class Prepare:
    """Turn text into a corpus."""

    options: tyro.conf.OmitArgPrefixes[PrepareOptions]

    def run(self) -> None:
        """Prepare, and say what was made and what to do next."""
        for line in prepare(self.options, stdin=sys.stdin.buffer).lines():
            print(line)


@dataclass(frozen=True)
class ShowCorpus:
    """Show what a corpus holds."""

    corpus: tyro.conf.Positional[Path]
    """folder made by `txl prepare`"""

    def run(self) -> None:
        """Print a line per split."""
        from trainer.data.corpus import open_corpus

        corpus = open_corpus(self.corpus)
        print(f"{corpus.path}: {corpus.vocabulary.kind}, vocabulary {corpus.vocabulary.size:,}")
        for split in corpus.splits.values():
            print(
                f"{split.name:5} {split.n_tokens:>14,} tokens {split.n_words:>13,} words "
                f"{len(split.document_starts):>9,} documents"
            )


@dataclass(frozen=True)
class Verify:
    """Read a corpus whole and compare every block with its hash."""

    corpus: tyro.conf.Positional[Path]
    """folder made by `txl prepare`"""

    def run(self) -> None:
        """Verify."""
        from trainer.data.corpus import verify_corpus

        verify_corpus(self.corpus)
        print(f"{self.corpus}: whole")


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


@dataclass(frozen=True)
class Report:
    """Show where runs stand, their curves and their evaluations."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """directories of runs"""
    json: bool = False
    """as JSON"""
    plot: Path | None = None
    """draw the loss curves into this file; needs matplotlib"""

    def run(self) -> None:
        """Print the report."""
        from trainer.report import report

        print(report(self.runs, as_json=self.json, plot=self.plot))


@dataclass(frozen=True)
class Show:
    """Print a recipe and a DeepSpeed file as a run would use them."""

    recipe: tyro.conf.Positional[str]
    """packaged name, or a JSON file"""
    deepspeed_config: str = "zero1_bf16"
    """packaged name, or a JSON file"""
    world_size: int = 1
    """ranks that share the batch"""

    def run(self) -> None:
        """Print both."""
        from trainer.ds_config import show

        print(show(self.recipe, self.deepspeed_config, world_size=self.world_size))


@dataclass(frozen=True)
class Schema:
    """Print the JSON Schema of recipes and DeepSpeed files."""

    def run(self) -> None:
        """Print it."""
        from trainer.ds_config import schema

        print(schema())


@dataclass(frozen=True)
class Recipes:
    """List the packaged recipes."""

    def run(self) -> None:
        """Print a line each."""
        from trainer.config import load_recipe, recipe_names

        for name in recipe_names():
            model, settings = load_recipe(name).model, load_recipe(name).train
            print(
                f"{name:14} {model.n_layer:2} layers, d_model {model.d_model:4}, tgt_len "
                f"{settings.tgt_len:3}, {settings.train_batch_size:3} streams, "
                f"{settings.max_steps:,} steps"
            )


@dataclass(frozen=True)
class ExitCodes:
    """List the exit codes."""

    def run(self) -> None:
        """Print a line each."""
        for code in Exit:
            print(f"{code:3} {code.describe()}")


def _lengths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--mem-len {text!r} is not a list of lengths such as 0,150,640") from None
