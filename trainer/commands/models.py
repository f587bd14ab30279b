"""The commands of ``txl`` that run a model: their options, and what they do.

Heavy imports wait until a command runs.
"""

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from trainer.errors import InputError
from trainer.inference.eval_options import EvalOptions
from trainer.inference.sampling_options import Sampling
from trainer.inference.texts.options import ScoreOptions
from trainer.outside import text_argument
from trainer.wording import printable_lines


@dataclass(frozen=True)
class Eval(EvalOptions):
    """Score a split with a trained model: every token but the first, exactly once."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run")]
    """directory of the run"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to run"""

    def run(self) -> None:
        """Evaluate; under torchrun or deepspeed, on all ranks together."""
        from trainer.distributed import this_process
        from trainer.host_cpu import use_cpu_well
        from trainer.inference.evaluate import evaluate_run
        from trainer.launchers import complete_environ
        from trainer.meeting import join
        from trainer.track.opening import track_evaluations

        os.environ.update(complete_environ(os.environ))
        world = this_process(os.environ, device=self.device)
        if world.device.type == "cpu":
            use_cpu_well()
        evaluate_run(self, join(world, timeout_s=600.0))
        if world.is_main:
            track_evaluations(self.run_dir, environ=os.environ)


@dataclass(frozen=True)
class Score(ScoreOptions):
    """Score any text with a trained model: a row per file, and a total.

    Every token of a file but its first is scored exactly once, as in `txl eval` of a corpus of it.
    """

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run")]
    """directory of the run, or an exported model"""
    files: tyro.conf.Positional[tuple[Path, ...]]
    """texts: text files, JSON lines, either of them packed, and folders of them; - is stdin"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to run"""

    def run(self) -> None:
        """Score, and print a table or JSON."""
        import json

        from trainer.distributed import choose_device
        from trainer.host_cpu import use_cpu_well
        from trainer.inference.texts.files import score_files

        device = choose_device(self.device, local_rank=0)
        if device.type == "cpu":
            use_cpu_well()
        stdin = None if sys.stdin is None else sys.stdin.buffer
        scores = score_files(self, device=device, stdin=stdin)
        print(json.dumps(scores.to_json(), indent=2) if self.json else scores.text())


@dataclass(frozen=True)
class Generate:
    """Continue a prompt, with the memory as the only cache unless --cache or --dynamic is given.

    The settings of these are then those that `txl eval` has tuned, or are given too.
    """

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run")]
    """directory of the run"""
    prompt: str = ""
    """text to continue; - reads standard input"""
    checkpoint: str = "best"
    """best, last, a step, or a path"""
    sampling: Sampling = field(
        default_factory=lambda: Sampling(n_tokens=200, temperature=0.8),
    )
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
        """Print the prompt, then each piece of its continuation as it is made."""
        from trainer.budget.shortage import explained
        from trainer.distributed import choose_device
        from trainer.host_cpu import use_cpu_well
        from trainer.inference.improving.filed import with_filed_settings
        from trainer.inference.loading import open_trained

        sampling = self.sampling
        if sampling.stop is not None:
            sampling = replace(sampling, stop=text_argument(sampling.stop, name="--stop"))
        device = choose_device(self.device, local_rank=0)
        if device.type == "cpu":
            use_cpu_well()
        trained = open_trained(
            self.run_dir,
            which=self.checkpoint,
            precision=None,
            device=device,
            trust=self.trust_code,
            second_moments=sampling.dynamic == "rms",
        )
        sampling = with_filed_settings(sampling, self.run_dir, trained)
        prompt = _read_prompt(self.prompt)
        pieces = trained.stream(prompt, sampling)
        # A foreign vocabulary may hold escape sequences, which may go to a file but to no terminal.
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
    """Return the prompt; for ``-``, the text of standard input."""
    if prompt == "-" and sys.stdin is None:
        raise InputError("--prompt - reads standard input, which is closed")
    if prompt != "-":
        return text_argument(prompt, name="the prompt")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeError:
        raise InputError("the prompt is not UTF-8: convert it, as with iconv -t UTF-8") from None
