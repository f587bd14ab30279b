"""Lengths that grow while a run trains, and the time that they save.

    .venv/bin/python tests/benchmarks/recurrent/lengths.py --out runs/lengths
        [--seeds 1 2 3] [--jobs 2]

Trains the quick start's model on the same tokens of books with fixed lengths and with schedules,
and validates all with the long ones. The same command goes on where it was stopped. Prints a
Markdown table.
"""

import argparse
import itertools
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from measured.processes import machine
from measured.trained import books_in, trained

STREAMS = 16
#: Steps of each stage, its tgt_len and its mem_len. All arms end with the same lengths, and read as
#: many tokens.
ARMS = {
    "fixed": ((1000, 64, 640),),
    "memory grows": ((500, 64, 64), (500, 64, 640)),
    "both grow": ((800, 32, 96), (600, 64, 640)),
}


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of corpus and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a thread each")
    told = parser.parse_args()
    corpus = books_in(told.out)

    def result(of: tuple[int, str]) -> dict[str, float]:
        seed, name = of
        return trained(
            told.out / f"{name.replace(' ', '-')}-seed{seed}",
            corpus,
            "quickstart",
            seed=seed,
            n_updates=sum(n_steps for n_steps, *_ in ARMS[name]),
            flags=flags_of(ARMS[name]),
        )

    wanted = list(itertools.product(told.seeds, ARMS))
    with ThreadPoolExecutor(told.jobs) as pool:
        results = dict(zip(wanted, pool.map(result, wanted), strict=True))
    print("| lengths | steps | tokens | valid loss | of seeds | CPU s | peak GiB |\n|" + "---|" * 7)
    for name, stages in ARMS.items():
        of = [results[seed, name] for seed in told.seeds]
        losses = [one["loss"] for one in of]
        n_tokens = sum(n_steps * tgt_len * STREAMS for n_steps, tgt_len, _ in stages)
        cpu_s, peak = (statistics.median(one[key] for one in of) for key in ("cpu_s", "peak_gib"))
        print(
            f"| {name} | {sum(n for n, *_ in stages):,} | {n_tokens:,} "
            f"| {statistics.fmean(losses):.3f} | {min(losses):.3f}–{max(losses):.3f} "
            f"| {cpu_s:.0f} | {peak:.2f} |"
        )
    print(f"\n{machine('cpu')}")


def flags_of(stages: tuple[tuple[int, int, int], ...]) -> dict[str, Any]:
    """Return the flags of stages; one stage is fixed lengths, which need no schedule."""
    *_, (_, tgt_len, mem_len) = stages
    flags: dict[str, Any] = {
        "--train.train-batch-size": STREAMS,
        "--train.tgt-len": tgt_len,
        "--train.mem-len": mem_len,
        "--valid.tgt-len": tgt_len,
        "--valid.mem-len": mem_len,
    }
    if len(stages) == 1:
        return flags
    begins = list(itertools.accumulate((n_steps for n_steps, *_ in stages), initial=0))[:-1]
    for name, place in (("tgt-len", 1), ("mem-len", 2)):
        values = [stage[place] for stage in stages]
        schedule = [list(pair) for pair in zip(begins, values, strict=True)]
        flags[f"--train.{name}-schedule"] = schedule
    return flags


if __name__ == "__main__":
    main()
