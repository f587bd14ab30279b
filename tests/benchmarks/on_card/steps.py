"""A step of the recipe as a GPU does it by default, and what the device spends it on."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from measured.dims import CONFIGS, Dims
from measured.ours import training
from measured.profiled import profile
from on_card.rows import Ask, Row, row

from trainer.distributed import this_process
from trainer.engine import deepspeed
from trainer.launchers import complete_environ
from trainer.training.loop import train_step

#: Steps that are profiled, and how many of a device's kernels are told.
PROFILED, TOLD = 3, 25


def dims_on(device: str) -> tuple[str, Dims]:
    """Return the configuration that is measured on a device, after its name."""
    config = "toy" if device == "cpu" else "wt103-base-60"
    return config, CONFIGS[config]


def ds_file_on(device: str) -> str:
    """Return the DeepSpeed file that is the default on a device."""
    return "zero0_fp32" if device == "cpu" else "zero0_bf16_autocast"


@contextmanager
def our_step(device: str) -> Iterator[Callable[[], object]]:
    """Yield a step of our training as the recipe is, warm."""
    os.environ.update(complete_environ(os.environ))
    world = deepspeed.connect(this_process(os.environ, device=device), timeout_s=600)
    _, dims = dims_on(device)
    with training(dims, ds_file=ds_file_on(device), world=world, n_segments=20) as (run, state):
        for _ in range(6):
            train_step(run, state)
        yield lambda: train_step(run, state)


def kernels(ask: Ask) -> Iterator[Row]:
    """Yield what the device spends steps on, kernel by kernel, in a graph and outside."""
    with our_step(ask.device) as step:
        found = profile(step, PROFILED, torch.device(ask.device))
    busy_ms = 1e3 * sum(found.seconds.values()) / PROFILED
    yield row("kernels", "ms/step that the device is busy", busy_ms)
    yield row("kernels", "kernels and copies a step", sum(found.counts.values()) / PROFILED)
    for name in sorted(found.seconds, key=lambda name: -found.seconds[name])[:TOLD]:
        times, ms = found.counts[name] / PROFILED, 1e3 * found.seconds[name] / PROFILED
        yield row("kernels", f"{name[:56]} x{times:.0f}, ms", ms)
