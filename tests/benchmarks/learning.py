"""Recipes held against each other at equal tokens, each at its own best rate.

    .venv/bin/python tests/benchmarks/learning.py --out runs/learning
        post='quickstart --model.norm post' pre='quickstart --model.norm pre'
        [--data CORPUS] [--sizes 0.5M 2M] [--tokens 1024000] [--seeds 1 2 3] [--jobs 2]

Each arm is NAME='RECIPE FLAGS', what one would write after `txl train`, and each run is that
command. The rate is searched on a grid around the recipe's own that goes on until its edges are not
the best: with the first seed, then from there with all that shall choose it. At the best rate all
seeds are run, and shorter runs, each complete, say what the first arm's loss costs. Arms take
turns, so that a busy machine disturbs all alike. The same command goes on where it was stopped, and
runs only what new arms lack.

Prints a Markdown table, and writes `learning.md`, `learning.json` and `learning.png` to OUT.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from arms.arm import SIZES, Arm, Run, Trial
from arms.told import as_json, plot, table
from arms.tuned import Plan, Tuned, tune
from measured.processes import machine
from measured.trained import books_in


def main() -> None:
    """Train what is missing, and tell it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "arms",
        nargs="+",
        metavar="NAME='RECIPE FLAGS'",
        help="the first is the measure of the others",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of corpus and runs")
    parser.add_argument(
        "--data", type=Path, help="corpus; by default of books, or of what the quick start reads"
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["0.5M", "2M"])
    parser.add_argument("--tokens", type=int, default=1_024_000, help="to train on, of each run")
    parser.add_argument(
        "--shares",
        type=float,
        nargs="*",
        default=[0.25, 0.5],
        help="of the tokens, of shorter runs",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--tuning-seeds", type=int, help="so many of the seeds choose the rate; by default all"
    )
    parser.add_argument("--factor", type=float, default=1.6, help="from rate to rate")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a thread each")
    told = parser.parse_args()
    corpus = told.data or books_in(told.out, vocab_size=2048)
    arms = [
        Arm.read(words, size=size, corpus=corpus) for size, words in product(told.sizes, told.arms)
    ]
    if len({(arm.size, arm.name) for arm in arms}) < len(arms):
        parser.error("two arms have one name: write NAME='RECIPE FLAGS'")
    n_tuning = told.tuning_seeds or len(told.seeds)
    if not 1 <= n_tuning <= len(told.seeds):
        parser.error(f"--tuning-seeds {n_tuning}: give 1 to {len(told.seeds)}, as many as --seeds")
    plan = Plan(told.tokens, tuple(sorted(told.shares)), tuple(told.seeds), n_tuning, told.factor)
    tuned = compare(arms, plan, told.out, jobs=told.jobs)
    text = f"{table(tuned)}\n{told.tokens:,} tokens each; {machine('cpu')}\n"
    print(text)
    (told.out / "learning.md").write_text(text)
    (told.out / "learning.json").write_text(json.dumps(list(map(as_json, tuned)), indent=1) + "\n")
    plot(tuned, told.out / "learning.png")


def compare(arms: Sequence[Arm], plan: Plan, out: Path, *, jobs: int) -> list[Tuned]:
    """Tune all arms at the same time, of which each waits for its own runs."""
    with ThreadPoolExecutor(jobs) as runs, ThreadPoolExecutor(len(arms)) as searches:

        def tuned(arm: Arm) -> Tuned:
            def run(trials: Sequence[Trial]) -> list[Run]:
                return list(runs.map(lambda trial: arm.run(trial, out), trials))

            return tune(arm, plan, run)

        try:
            return list(searches.map(tuned, arms))
        except BaseException:
            runs.shutdown(wait=False, cancel_futures=True)
            raise


if __name__ == "__main__":
    main()
