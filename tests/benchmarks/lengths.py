"""What lengths that grow while a run trains save: short segments and memory first, long ones last.

    .venv/bin/python tests/benchmarks/lengths.py --out runs/lengths [--seeds 1 2] [--jobs 2]

Trains the quick start's model on the same tokens of books with fixed lengths and with schedules,
and validates all with the long ones. The same command goes on where it was stopped. Prints a
Markdown table.
"""

import argparse
import itertools
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measured.processes import machine
from measured.trained import books_in, trained

STREAMS, LONG, MEMORY = 16, 128, 384
FLAGS = {
    "--train.train-batch-size": STREAMS,
    "--train.tgt-len": LONG,
    "--train.mem-len": MEMORY,
    "--valid.tgt-len": LONG,
    "--valid.mem-len": MEMORY,
}
#: Steps of each stage, and its tgt_len; its mem_len is in proportion.
GROWING = ((400, 32), (300, 64), (250, 128))
FIXED = ((500, LONG),)
ARMS = {"fixed": FIXED, "growing": GROWING}


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of corpus and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a thread each")
    told = parser.parse_args()
    corpus = books_in(told.out)

    def result(of: tuple[int, str]) -> dict[str, float]:
        seed, name = of
        stages = ARMS[name]
        n_updates = sum(n_steps for n_steps, _ in stages)
        run_dir, flags = told.out / f"{name}-seed{seed}", FLAGS | schedules(stages)
        return trained(run_dir, corpus, "quickstart", seed=seed, n_updates=n_updates, flags=flags)

    wanted = list(itertools.product(told.seeds, ARMS))
    with ThreadPoolExecutor(told.jobs) as pool:
        results = dict(zip(wanted, pool.map(result, wanted), strict=True))
    print("| lengths | steps | tokens | valid loss | of seeds | CPU s | peak GiB |\n|" + "---|" * 7)
    for name, stages in ARMS.items():
        of = [results[seed, name] for seed in told.seeds]
        losses = [one["loss"] for one in of]
        n_tokens = sum(n_steps * tgt_len * STREAMS for n_steps, tgt_len in stages)
        cpu_s, peak = (statistics.median(one[key] for one in of) for key in ("cpu_s", "peak_gib"))
        print(
            f"| {name} | {sum(n for n, _ in stages):,} | {n_tokens:,} "
            f"| {statistics.fmean(losses):.3f} | {min(losses):.3f}–{max(losses):.3f} "
            f"| {cpu_s:.0f} | {peak:.2f} |"
        )
    print(f"\n{machine('cpu')}")


def schedules(stages: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """Return the flags of stages; none for one, which the fixed lengths say."""
    if len(stages) == 1:
        return {}
    begins = itertools.accumulate((n_steps for n_steps, _ in stages), initial=0)
    lengths = [[begin, tgt_len] for begin, (_, tgt_len) in zip(begins, stages, strict=False)]
    memory = [[begin, tgt_len * MEMORY // LONG] for begin, tgt_len in lengths]
    return {"--train.tgt-len-schedule": lengths, "--train.mem-len-schedule": memory}


if __name__ == "__main__":
    main()
