"""How many operations a step asks of the host, by part of the step: one command, a table.

    .venv/bin/python tests/benchmarks/operations.py [zero0_bf16_autocast zero1_bf16 …]

Counted is what PyTorch dispatches in a step of wt103-base on one rank: forward and backward passes,
and all that follows. Its layers, tables and tensors are as many as the recipe's, but narrow: widths
change no count. On a CPU the kernels are other ones, and views and allocations are left out.
"""

import argparse
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed chooses when it is imported

from measured.dims import CONFIGS
from measured.ours import training
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.distributed import World, this_process
from trainer.engine import deepspeed
from trainer.launchers import complete_environ
from trainer.train.loop import train_step

#: The default of a CPU, that of a GPU, and ZeRO-2.
FILES = ("zero0_bf16_autocast", "zero1_bf16", "zero2_bf16")
DIMS = replace(
    CONFIGS["wt103-base"],
    vocab_size=400,
    cutoffs=(50, 100, 200),
    d_model=16,
    n_head=2,
    d_head=8,
    d_inner=32,
    tgt_len=8,
    mem_len=8,
)
#: Operations that launch nothing on a GPU.
FREE = {
    "as_strided", "alias", "detach", "empty", "empty_like", "empty_strided", "expand", "permute",
    "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unsqueeze",
    "unbind", "view", "_unsafe_view", "new_empty", "_reshape_alias", "set_", "lift_fresh", "narrow",
}  # fmt: skip


class Operations(TorchDispatchMode):
    """Counts what is dispatched, under the name of the part that is running."""

    def __init__(self) -> None:
        super().__init__()
        self.part = "forward and backward"
        self.counts: dict[str, Counter[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in FREE:
            self.counts.setdefault(self.part, Counter())[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def parts_of(engine: Any, operations: Operations) -> Iterator[None]:
    """Count what the engine's step does under a name of its own."""
    step = engine.step

    def counted() -> bool | None:
        operations.part = "reduction, norm, update"
        try:
            applied: bool | None = step()
            return applied
        finally:
            operations.part = "forward and backward"

    with mock.patch.object(engine, "step", counted):
        yield


def count(ds_file: str, world: World) -> dict[str, Counter[str]]:
    """Operations of the third step, by part and name."""
    with training(DIMS, ds_file=ds_file, world=world, n_segments=8) as (run, state):
        for _ in range(2):
            train_step(run, state)
        operations = Operations()
        with parts_of(run.engine, operations), operations:
            train_step(run, state)
        run.engine.destroy()
    return operations.counts


def main() -> None:
    """Print a table, and what most operations of each file are."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", default=FILES)
    parser.add_argument("--out", type=Path, help="also write the counts there, as JSON")
    options = parser.parse_args()
    os.environ.update(complete_environ(os.environ))
    logging.disable(logging.WARNING)
    world = deepspeed.connect(this_process(os.environ, device="cpu"), timeout_s=600)
    print("| DeepSpeed file | forward and backward | reduction, norm, update | most of these |")
    print("|---|---|---|---|")
    found = {}
    for ds_file in options.files:
        counts = found[ds_file] = count(ds_file, world)
        passes, update = counts["forward and backward"], counts["reduction, norm, update"]
        most = ", ".join(f"{n} {name}" for name, n in update.most_common(4))
        print(f"| `{ds_file}` | {passes.total():,} | {update.total():,} | {most} |", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
