"""How many operations a step asks of the host, by part of the step: one command, a table.

    .venv/bin/python tests/benchmarks/operations.py [zero0_bf16_autocast zero1_bf16 …]

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
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed chooses when it is imported
os.environ["TRITON_INTERPRET"] = "0"
sys.path.append(str(Path(__file__).parents[1] / "support/triton"))

from as_on_a_gpu import as_on_a_gpu
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
    d_model=20,
    n_head=2,
    d_head=10,
    d_inner=42,
    tgt_len=8,
    mem_len=8,
)
#: Operations that launch nothing on a GPU.
FREE = {
    "as_strided", "alias", "detach", "empty", "empty_like", "empty_strided", "expand", "permute",
    "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unsqueeze",
    "unbind", "view", "_unsafe_view", "new_empty", "_reshape_alias", "set_", "lift_fresh", "narrow",
    "promote_types", "_record_function_enter_new", "_record_function_exit",
}  # fmt: skip


PARTS = {"__call__": "forward", "backward": "backward", "step": "reduction, norm, update"}


class Operations(TorchDispatchMode):
    """Counts what is dispatched and launched, under the name of the part that is running."""

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
        for name, part in PARTS.items():
            method = getattr(deepspeed.Engine, name)
            stack.enter_context(mock.patch.object(deepspeed.Engine, name, counted(method, part)))
        yield


def count(ds_file: str, world: World) -> dict[str, Counter[str]]:
    """Operations of the third step, by part and name."""
    operations = Operations()
    with (
        as_on_a_gpu("triton", operations.launch),
        training(DIMS, ds_file=ds_file, world=world, n_segments=8) as (run, state),
    ):
        with operations:
            for _ in range(2):
                train_step(run, state)
        for counts in operations.counts.values():
            counts.clear()
        with parts_of(operations), operations:
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
    print(
        "| DeepSpeed file | forward | backward | reduction, norm, update | beside | most of these |"
    )
    print("|---|---|---|---|---|---|")
    found = {}
    for ds_file in options.files:
        counts = found[ds_file] = count(ds_file, world)
        most = ", ".join(
            f"{n} {name}" for name, n in sum(counts.values(), Counter()).most_common(6)
        )
        totals = " | ".join(f"{counts[part].total():,}" for part in (*PARTS.values(), "beside"))
        print(f"| `{ds_file}` | {totals} | {most} |", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
