"""Every kind of model at about equal parameters and equal tokens: loss, spread, and what it costs.

    .venv/bin/python tests/benchmarks/recurrent/families.py --out runs/families [--tokens 1024000]
        [--seeds 1 2 3] [--kinds gla lstm] [--rates 3e-3] [--jobs 2]

Trains the recipe of each kind, as users do, on the same tokens of books, and scores books by other
authors: the loss is that of the last validation, after all tokens. Rows take turns, so that a busy
machine disturbs all kinds alike. Of several --rates each kind is shown at its best one. The same
command goes on where it was stopped. Prints a Markdown table and writes it to OUT.
"""

import argparse
import itertools
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

sys.path.append(str(Path(__file__).parents[1]))

from measured.processes import machine
from measured.trained import books_in, trained

from trainer.budget.check import count_weights
from trainer.config.kinds import Kind
from trainer.config.recipe import load_recipe
from trainer.data.corpus import open_corpus

KINDS = get_args(Kind)


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of corpus and runs")
    parser.add_argument("--tokens", type=int, default=1_024_000, help="to train on, of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rates", type=float, nargs="+", help="by default each recipe's own")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a thread each")
    told = parser.parse_args()
    corpus = books_in(told.out)
    wanted = [
        Trial(kind, seed, rate, told.tokens)
        for seed, rate, kind in itertools.product(told.seeds, told.rates or [None], told.kinds)
    ]
    with ThreadPoolExecutor(told.jobs) as pool:
        results = list(pool.map(lambda trial: trial.result(told.out, corpus), wanted))
    text = table(results) + f"\n{told.tokens:,} tokens each; {machine('cpu')}\n"
    print(text)
    (told.out / "families.md").write_text(text)


class Trial:
    """One run of a kind."""

    def __init__(self, kind: str, seed: int, rate: float | None, n_tokens: int) -> None:
        self.recipe = "quickstart" if kind == "transformer-xl" else f"quickstart-{kind}"
        train, optim = load_recipe(self.recipe).train, load_recipe(self.recipe).optim
        self.kind, self.seed, self.rate = kind, seed, rate or optim.lr
        a_step = train.train_batch_size * train.tgt_len * train.bptt_segments
        self.n_updates = n_tokens // a_step
        self.warmup = optim.warmup_steps * self.n_updates // train.max_steps

    def result(self, out: Path, corpus: Path) -> dict[str, Any]:
        """Return what the run gave, and train it first if it was not."""
        found = trained(
            out / f"{self.kind}-{self.n_updates}-{self.rate:g}-seed{self.seed}",
            corpus,
            self.recipe,
            seed=self.seed,
            n_updates=self.n_updates,
            flags={"--optim.lr": self.rate, "--optim.warmup-steps": self.warmup},
        )
        model, n_words = load_recipe(self.recipe).model, open_corpus(corpus).vocabulary.size
        return {
            "kind": self.kind,
            "rate": self.rate,
            "updates": self.n_updates,
            "parameters": count_weights(model, n_words).total,
            **found,
        }


def table(results: list[dict[str, Any]]) -> str:
    """Return a table of each kind at its best rate, the best kind first."""
    by_kind: dict[str, dict[float, list[dict[str, Any]]]] = {}
    for result in results:
        by_kind.setdefault(result["kind"], {}).setdefault(result["rate"], []).append(result)
    rows = []
    for kind, by_rate in by_kind.items():
        means = {rate: statistics.fmean(one["loss"] for one in of) for rate, of in by_rate.items()}
        rate = min(means, key=lambda rate: means[rate])
        of = by_rate[rate]
        losses = [result["loss"] for result in of]
        row = (
            f"| `{kind}` | {of[0]['parameters']:,} | {rate:g} | {of[0]['updates']:,} "
            f"| **{means[rate]:.3f}** | {min(losses):.3f}–{max(losses):.3f} "
            f"| {statistics.median(result['cpu_s'] for result in of):.0f} |"
        )
        rows.append((means[rate], row))
    head = "| kind | parameters | rate | updates | valid loss | of seeds | CPU s |"
    return (
        "\n".join([head, "|---|---|---|---|---|---|---|", *(row for _, row in sorted(rows))]) + "\n"
    )


if __name__ == "__main__":
    main()
