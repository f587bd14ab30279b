"""What bucket sizes and overlap_comm change in a step of two ranks: messages, copies, buffers.

    .venv/bin/python tests/benchmarks/buckets.py

Two processes over gloo train a model of wt103-base's layers whose matrices have a sixteenth of the
recipe's elements, and so have the buckets; messages are as many as those of the whole model.
Counted is a third step, in which bytes are told per parameter. Losses are compared bit by bit.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed chooses when it is imported
sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "support"))
sys.path.append(str(Path(__file__).parents[1] / "support/runs"))

import torch
from bare_run import bare_run
from builders import random_documents, write_corpus
from measured.dims import CONFIGS, Dims
from measured.ours import experiment_of
from ranks import told_by_ranks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from traffic import PASSES, Traffic

from trainer.checkpoint.state import TrainState
from trainer.config.deepspeed.file import load_ds_config
from trainer.distributed import World
from trainer.engine import deepspeed
from trainer.training.loop import train_step

SHARE = 16
DIMS = replace(
    CONFIGS["wt103-base"],
    n_streams=4,
    tgt_len=8,
    mem_len=8,
    vocab_size=66_934,
    cutoffs=(5_000, 10_000, 50_000),
    d_model=102,
    d_head=10,
    d_inner=525,
)
FILES = ("zero1_bf16", "zero2_bf16", "zero3_bf16")
BUCKETS = (20_000_000, 50_000_000, 100_000_000, 200_000_000, 500_000_000)
COPIES = ("copy_", "cat", "clone", "_to_copy")
STEPS = 3


class Work(TorchDispatchMode):
    """A sum of what is copied, and of what is taken for buffers of a bucket's size."""

    def __init__(self, bucket: int) -> None:
        super().__init__()
        self.copied_bytes = self.buffer_bytes = 0
        self._bucket = bucket

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if name in COPIES:
            self.copied_bytes += made.nbytes
        elif name == "empty" and made.numel() == self._bucket:
            self.buffer_bytes += made.nbytes
        return made


class Messages(Traffic):
    """A count of the bytes that are sent, and of messages but those of a single number."""

    def __init__(self, n_ranks: int) -> None:
        super().__init__(n_ranks)
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            sizes = [leaf.numel() for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            self.n += max(sizes, default=0) > 1 and func.overloadpacket.__name__ in PASSES
        return super().__torch_dispatch__(func, types, args, kwargs)


def with_buckets(file: str, *, bucket: int, overlap: bool, **more: Any) -> dict[str, Any]:
    """Return a packaged DeepSpeed file with another bucket, and another overlap_comm."""
    raw = load_ds_config(file)
    raw["zero_optimization"] |= {"reduce_bucket_size": bucket, "overlap_comm": overlap, **more}
    return raw


def measure(world: World, corpus: Path, raw: dict[str, Any], dims: Dims) -> dict[str, Any]:
    """Train some steps; what this rank does in the last one, per parameter."""
    run, state = bare_run(world, corpus, raw, experiment_of(dims, 0.1)), TrainState()
    losses = [float(train_step(run, state).loss_sum) for _ in range(STEPS - 1)]
    work, messages = Work(raw["zero_optimization"]["reduce_bucket_size"]), Messages(2)
    with work, messages:
        losses.append(float(train_step(run, state).loss_sum))
    n = sum(torch.Size(shape).numel() for shape in run.engine.full_state.shapes().values())
    run.engine.destroy()
    return {
        "losses": losses,
        "messages": messages.n,
        "sent": sum(messages.bytes_by_collective.values()) / n,
        "copied": work.copied_bytes / n,
        "buffers": work.buffer_bytes / n,
        "parameters": n,
    }


def settings() -> Iterator[tuple[str, int, bool]]:
    """Yield files, the size of their bucket, and overlap_comm."""
    yield from product(FILES, BUCKETS, (False, True))


def measure_all(world: World, folder: Path) -> list[Any]:
    """Return what each setting does on this rank."""
    torch.set_num_threads(1)
    world = deepspeed.connect(world, timeout_s=600)
    thresholds = {"stage3_param_persistence_threshold": 100_000 // SHARE}
    return [
        measure(
            world,
            folder / "corpus",
            with_buckets(file, bucket=bucket // SHARE, overlap=overlap, **thresholds),
            DIMS,
        )
        for file, bucket, overlap in settings()
    ]


def main() -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = random_documents(4_000, vocabulary_size=DIMS.vocab_size)
        write_corpus(folder / "corpus", vocabulary_size=DIMS.vocab_size, train=documents)
        told = told_by_ranks(measure_all, folder, timeout_s=3000)
    losses = {
        (file, str(found["losses"])) for (file, *_), found in zip(settings(), told[0], strict=True)
    }
    assert len(losses) == len(FILES), "a bucket or overlap_comm changes losses"
    print(f"{told[0][0]['parameters']:,} parameters; the losses of each file are the same")
    print("| file | bucket | overlap_comm | messages | bytes sent | copied | buffers |")
    print("|---|---|---|---|---|---|---|")
    for (file, bucket, overlap), *ranks in zip(settings(), *told, strict=True):
        means = (
            sum(rank[key] for rank in ranks) / len(ranks)
            for key in ("messages", "sent", "copied", "buffers")
        )
        numbers = " | ".join(f"{mean:.2f}" for mean in means)
        print(f"| `{file}` | {bucket:.0e} | {str(overlap).lower()} | {numbers} |")


if __name__ == "__main__":
    main()
