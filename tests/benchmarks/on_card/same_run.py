"""Whether a run is the same run on a card: captured as not captured, and resumed as in one go.

A GPU adds in an order of its own where several threads meet, so what is not equal to the last bit
is told with how far two runs differ that were started in the same way.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from measured.dims import CONFIGS, Dims
from measured.ours import training
from on_card.commands import train
from on_card.rows import Ask, Row, row
from training import Case, begun_from, checkpoint_hashes, losses, make_corpus

from trainer.distributed import World, this_process
from trainer.engine import deepspeed
from trainer.engine.passes import captured as captured_passes
from trainer.errors import InputError
from trainer.launchers import complete_environ
from trainer.training.loop import train_step

N_STEPS = 12
#: Steps of a run of the command.
N_WHOLE = {"cuda": 100, "cpu": 12}
SMALL = replace(
    CONFIGS["tiny"], vocab_size=2_000, cutoffs=(200, 600), d_model=132, d_inner=516, n_streams=8
)
#: How far losses of a DeepSpeed file may differ, relative.
LIMITS = {
    "zero0_bf16_autocast": 1e-3,
    "zero0_fp16_autocast": 1e-3,
    "zero0_fp32": 1e-5,
    "zero1_bf16": 1e-3,
}
#: Runs of the command at stage 0, by what they are given: rates that change, gradients that are
#: clipped in some steps alone, and each optimizer's own update.
WHOLE = {
    f"{optimizer}{named}": ["--optim.type", optimizer, *flags]
    for optimizer in ("Adam", "Muon")
    for named, flags in {
        "": [],
        ", tables": ["--model.token-tables", "1", "--model.pair-rows", "1000"],
    }.items()
}


def captured(ask: Ask) -> Iterator[Row]:
    """Yield losses of the same steps, captured and not."""
    os.environ.update(complete_environ(os.environ))
    world = deepspeed.connect(this_process(os.environ, device=ask.device), timeout_s=600)
    dims = CONFIGS["toy"] if ask.device == "cpu" else SMALL
    said = _Said()
    for ds_file, limit in LIMITS.items():
        for dropout in (0.0, 0.1):
            name = f"{ds_file}, dropout {dropout}, {N_STEPS} steps"
            usual, again = (_losses(dims, ds_file, "off", world, dropout) for _ in range(2))
            said.lines.clear()
            try:
                found = _losses(dims, ds_file, "on", world, dropout)
            except InputError as refusal:
                yield row("captured", name, f"not captured: {str(refusal)[:200]}")
                continue
            was_captured = any("is captured" in line for line in said.lines)
            yield _compared(name, found, usual, again, was_captured=was_captured, limit=limit)
    yield from _whole_runs(ask.device)


def _whole_runs(device: str) -> Iterator[Row]:
    """Yield losses of runs of the command that are captured and not."""
    n_steps = N_WHOLE[device]
    # With clusters products have other numbers of rows, and sum in another order. And a step's
    # outcome is learned late only if nothing is recorded right after it.
    common = ["--device", device, "--model.cutoffs", "--train.max-steps", str(n_steps)]
    common += ["--optim.warmup-steps", "5", "--optim.gradient-clipping", "1"]
    common += ["--tracking.log-interval-steps", str(n_steps // 4)]
    ds_file = "zero0_fp32" if device == "cpu" else "zero0_bf16_autocast"
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        folder = Path(name)
        corpus = make_corpus(folder / "stories")

        def run(asked: tuple[str, str, int]) -> list[float]:
            what, setting, turn = asked
            run_dir = folder / f"{what} {setting} {turn}"
            flags = [*common, *WHOLE[what], "--train.cuda-graph", setting]
            train(Case(run_dir, ds_file, flags).argv(corpus))
            return list(losses(run_dir).values())

        settings = (("off", 0), ("off", 1), ("on", 0))
        asked = [(what, *setting) for what in WHOLE for setting in settings]
        found = dict(zip(asked, pool.map(run, asked), strict=True))
        for what in WHOLE:
            usual, again, captured = (found[what, *setting] for setting in settings)
            told = f"{what}, a run of {n_steps} steps"
            yield _compared(told, captured, usual, again, was_captured=True, limit=0)


def _compared(
    name: str,
    found: list[float],
    usual: list[float],
    again: list[float],
    *,
    was_captured: bool,
    limit: float,
) -> Row:
    """Return a row of how far captured losses are from the usual ones, and two of these apart."""
    error, noise = _differ(found, usual), _differ(again, usual)
    told = "equal to the last bit" if error == 0 else f"differ by {error:.1e}"
    told += "" if error == noise == 0 else f" (the usual way twice: {noise:.1e})"
    told += "" if was_captured else ", but nothing was captured"
    return row("captured", name, told, ok=was_captured and error <= max(limit, 2 * noise))


class _Said(logging.Handler):
    """A handler that keeps what the trainer says of capturing."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        captured_passes.log.addHandler(self)
        captured_passes.log.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Note a line."""
        self.lines.append(record.getMessage())


def _losses(dims: Dims, ds_file: str, cuda_graph: str, world: World, dropout: float) -> list[float]:
    how = {"ds_file": ds_file, "cuda_graph": cuda_graph, "dropout": dropout}
    with training(dims, world=world, n_segments=N_STEPS + 1, **how) as (run, state):
        told = []
        for _ in range(N_STEPS):
            stats = train_step(run, state)
            told.append(float(stats.loss_sum) / stats.n_tokens)
        run.engine.destroy()
    return told


def _differ(found: list[float], wanted: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(found, wanted, strict=True))


def resumed(ask: Ask) -> Iterator[Row]:
    """Yield losses and a checkpoint of a run of 20 steps, in one go and from its step 10."""
    files = ("zero0_fp32",) if ask.device == "cpu" else ("zero0_bf16_autocast", "zero1_bf16")
    flags = ["--train.max-steps", "20", "--checkpoint.interval-steps", "10"]
    flags += ["--checkpoint.keep-last", "9", "--model.dropout", "0.2", "--device", ask.device]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        folder = Path(name)
        corpus = make_corpus(folder / "stories")

        def both(ds_file: str) -> tuple[Path, Path]:
            runs = folder / ds_file / "whole", folder / ds_file / "resumed"
            train(Case(runs[0], ds_file, flags).argv(corpus))
            begun_from(runs[0], 10, runs[1])
            train(Case(runs[1], ds_file, flags).argv(corpus))
            return runs

        for ds_file, (whole, again) in zip(files, pool.map(both, files), strict=True):
            wanted = {step: loss for step, loss in losses(whole).items() if step > 10}
            error = _differ(list(losses(again).values()), list(wanted.values()))
            told = "equal to the last bit" if error == 0 else f"differ by {error:.1e}"
            yield row("resumed", f"{ds_file}, losses of 10 steps", told, ok=error == 0)
            same = checkpoint_hashes(again, 20) == checkpoint_hashes(whole, 20)
            told = "equal to the last bit" if same else "differs"
            yield row("resumed", f"{ds_file}, the last checkpoint", told, ok=same)
