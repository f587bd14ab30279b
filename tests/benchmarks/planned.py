"""What `txl plan` says that a rank holds and sends, beside what real ranks hold and send.

    OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/planned.py [--ranks 1 2 4] [--json FILE]

Processes over gloo train a model of 1.3 million parameters by each packaged file that a CPU can
run, with two micro steps a step. Held is what lies in all tensors of a rank before the update,
beyond what lay there before the model; sent are the bytes of a step's collectives, of a ring. Of
all ranks the largest number is told. The last column is the larger of both relative differences.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed chooses when it is imported
ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
sys.path[:0] = [str(ROOT), *(str(SUPPORT / room) for room in (".", "runs"))]

import torch  # noqa: E402
from builders import random_documents, tiny_experiment, write_corpus  # noqa: E402
from holding import measured  # noqa: E402
from ranks import told_by_ranks  # noqa: E402

from trainer.config.deepspeed.file import load_ds_config  # noqa: E402
from trainer.distributed import World  # noqa: E402
from trainer.engine import deepspeed  # noqa: E402

FILES = (
    "zero0_fp32",
    "zero0_bf16_autocast",
    "zero1_fp32",
    "zero1_bf16",
    "zero2_fp32",
    "zero2_bf16",
    "zero3_fp32",
    "zero3_bf16",
)
SLOTS, N_WORDS = 2, 8000
MODEL = {"n_layer": 4, "cutoffs": (1000, 3000), "d_model": 96, "d_inner": 384, "d_head": 24}


def measure_all(world: World, folder: Path) -> dict[str, Any]:
    """Return what this rank holds and sends by each file, and what is planned."""
    torch.set_num_threads(1)
    world = deepspeed.connect(world, timeout_s=900)
    found = {}
    for file in FILES:
        raw = load_ds_config(file)
        if raw["zero_optimization"]["stage"]:
            raw["zero_optimization"] |= {"reduce_bucket_size": 100_000}
        if raw["zero_optimization"]["stage"] == 3:
            raw["zero_optimization"] |= {"stage3_param_persistence_threshold": 20_000}
        train = {"train_batch_size": SLOTS * world.world_size, "train_micro_batch_size_per_gpu": 1}
        experiment = tiny_experiment(model={**MODEL, "n_head": 4}, train=train)
        found[file] = measured(world, folder / "corpus", raw, experiment)
    return found


def rows(told: list[dict[str, Any]], n_ranks: int) -> list[dict[str, Any]]:
    """Return a row per file."""
    made = []
    for file in FILES:
        plan = told[0][file]["planned"]
        row: dict[str, Any] = {"ranks": n_ranks, "file": file}
        for key in ("weights", "optimizer", "all", "sent"):
            row[key] = plan[key], max(rank[file]["measured"][key] for rank in told)
        differing = [abs(a - b) / max(b, 1) for a, b in (row["all"], row["sent"]) if b > 8192]
        made.append(row | {"off": max(differing)})
    return made


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--json", type=Path, help="write the numbers there")
    given = parser.parse_args()
    found = []
    print("| ranks | file | weights, planned and held | optimizer | all | sent | off by |")
    print("|---|---|---|---|---|---|---|")
    for n_ranks in given.ranks:
        with tempfile.TemporaryDirectory() as name:
            documents = random_documents(4_000, vocabulary_size=N_WORDS)
            write_corpus(Path(name) / "corpus", vocabulary_size=N_WORDS, train=documents)
            told = told_by_ranks(measure_all, Path(name), n_ranks=n_ranks, timeout_s=3000)
        for row in rows(told, n_ranks):
            found.append(row)
            pairs = (row[key] for key in ("weights", "optimizer", "all", "sent"))
            cells = " | ".join(f"{a:,.0f} · {b:,.0f}" for a, b in pairs)
            print(f"| {n_ranks} | `{row['file']}` | {cells} | {row['off']:.1%} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
