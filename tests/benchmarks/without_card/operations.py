"""How many operations a step asks of the host, by part of the step: one command, a table.

    .venv/bin/python tests/benchmarks/without_card/operations.py [zero0_bf16_autocast zero1_bf16 …]

Counted is what a GPU would be asked for in a step of wt103-base on one rank: what PyTorch
dispatches, but for views and allocations, and the kernels, which are not run. Layers, tables and
tensors are as many as the recipe's, but narrow, and no width is a multiple of 8, as there.
"""

import argparse
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed chooses when it is imported
os.environ["TRITON_INTERPRET"] = "0"
sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[2] / "support/triton"))

from as_on_a_gpu import FREE, as_on_a_gpu
from deepspeed.accelerator import get_accelerator
from measured.dims import CONFIGS
from measured.ours import training
from torch.utils._python_dispatch import TorchDispatchMode
from without_card.files import CAPTURED, FILES

from trainer.distributed import World, this_process
from trainer.engine import deepspeed
from trainer.engine.engine import Engine
from trainer.engine.passes.captured import CapturedPasses
from trainer.engine.passes.graphs import Emulated
from trainer.launchers import complete_environ
from trainer.training.loop import train_step

DIMS = CONFIGS["wt103-narrow"]
PARTS = {
    (Engine, "__call__"): "forward",
    (Engine, "backward"): "backward",
    (Engine, "step"): "reduction, norm, update",
    (CapturedPasses, "_work"): "beside, in the graph",
    (Emulated, "run"): "what a graph does without being asked",
}
COLUMNS = ("forward", "backward", "beside, in the graph", "reduction, norm, update", "beside")


class Operations(TorchDispatchMode):
    """A count of what is dispatched and launched, by the part that is running."""

    def __init__(self) -> None:
        super().__init__()
        self.part = "beside"
        self.counts: dict[str, Counter[str]] = {part: Counter() for part in PARTS.values()}
        self.counts[self.part] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in FREE:
            self.counts[self.part][name] += 1
        made = func(*args, **(kwargs or {}))
        # A kernel that is not run leaves what was there, which might be no number.
        return made.zero_() if name in ("empty", "empty_like", "new_empty") else made

    def launch(self, kernel: Any, *_: Any, **__: Any) -> None:
        """Count a kernel."""
        self.counts[self.part][kernel.__name__] += 1


@contextmanager
def parts_of(operations: Operations) -> Iterator[None]:
    """Count what each method of the engine does under a name of its own."""

    def counted(method: Any, part: str) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            before, operations.part = operations.part, part
            try:
                return method(*args, **keywords)
            finally:
                operations.part = before

        return call

    with ExitStack() as stack:
        for (owner, name), part in PARTS.items():
            method = counted(getattr(owner, name), part)
            stack.enter_context(mock.patch.object(owner, name, method))
        yield


def count(ds_file: str, world: World, *, cuda_graph: str) -> dict[str, Counter[str]]:
    """Return operations of a step of many, by part and name."""
    operations = Operations()
    with (
        as_on_a_gpu("triton", operations.launch),
        training(DIMS, ds_file=ds_file, world=world, n_segments=8, cuda_graph=cuda_graph) as (
            run,
            state,
        ),
    ):
        with parts_of(operations), operations:
            for _ in range(4):
                for counts in operations.counts.values():
                    counts.clear()
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
    # What is asked of the host does not depend on whether this CPU computes in fp16.
    type(get_accelerator()).is_fp16_supported = lambda self: True
    world = deepspeed.connect(this_process(os.environ, device="cpu"), timeout_s=600)
    print(f"| DeepSpeed file | {' | '.join(COLUMNS)} | most of these |")
    print(f"|---|{'---|' * len(COLUMNS)}---|")
    found = {}
    for name in options.files:
        ds_file = name.removesuffix(CAPTURED)
        counts = count(ds_file, world, cuda_graph="off" if name == ds_file else "on")
        found[name] = {column: counts[column] for column in COLUMNS}
        most = ", ".join(
            f"{n} {op}" for op, n in sum(found[name].values(), Counter()).most_common(5)
        )
        totals = " | ".join(f"{counts[column].total():,}" for column in COLUMNS)
        print(f"| `{ds_file}`{name.removeprefix(ds_file)} | {totals} | {most} |", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
