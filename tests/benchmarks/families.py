"""Every kind of model at about equal parameters and equal tokens: loss, spread, and what it costs.

    .venv/bin/python tests/benchmarks/families.py --out runs/families [--tokens 1024000]
        [--seeds 1 2 3] [--kinds gla lstm] [--rates 3e-3] [--jobs 2]

Trains the recipe of each kind, as users do, on the same tokens of books, and scores books by other
authors: the loss is that of the last validation, after all tokens. Rows take turns, so that a busy
machine disturbs all kinds alike; each run has one thread, and its CPU seconds are those of all its
processes, start and validation included. Of several --rates each kind is shown at its best one.
The same command goes on where it was stopped. Prints a Markdown table and writes it to OUT.
"""

import argparse
import itertools
import json
import lzma
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

from measured.processes import ROOT, machine
from target.calls import validations
from target.texts import CLASSICS

from trainer.budget.check import count_weights
from trainer.config.kinds import Kind
from trainer.config.recipe import load_recipe
from trainer.data.corpus import open_corpus
from trainer.files import write_atomically

KINDS = get_args(Kind)
#: Books to train on, and characters of each book to validate on.
N_BOOKS, N_CHARACTERS = 20, 200_000
PREPARE = ["--tokenizer", "bpe", "--vocab-size", "4096"]
RESULT = "result.json"


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
    corpus = corpus_in(told.out)
    rates = told.rates or [None]
    wanted = [
        Trial(kind, seed, rate, told.tokens)
        for seed, rate, kind in itertools.product(told.seeds, rates, told.kinds)
    ]
    with ThreadPoolExecutor(told.jobs) as pool:
        results = list(pool.map(lambda trial: trial.result(told.out, corpus), wanted))
    text = table(results) + f"\n{told.tokens:,} tokens each; {machine('cpu')}\n"
    print(text)
    (told.out / "families.md").write_text(text)


class Trial:
    """One run of a kind."""

    def __init__(self, kind: str, seed: int, rate: float | None, n_tokens: int) -> None:
        recipe = "quickstart" if kind == "transformer-xl" else f"quickstart-{kind}"
        train, optim = load_recipe(recipe).train, load_recipe(recipe).optim
        self.kind, self.recipe, self.seed = kind, recipe, seed
        self.rate = rate or optim.lr
        a_step = train.train_batch_size * train.tgt_len * train.bptt_segments
        self.n_updates = n_tokens // a_step
        self.warmup = optim.warmup_steps * self.n_updates // train.max_steps

    def result(self, out: Path, corpus: Path) -> dict[str, Any]:
        """Return what the run gave, and train it first if it was not."""
        run_dir = out / f"{self.kind}-{self.n_updates}-{self.rate:g}-seed{self.seed}"
        if (run_dir / RESULT).is_file():
            found: dict[str, Any] = json.loads((run_dir / RESULT).read_text())
            return found
        command = [sys.executable, "-m", "trainer", "train", self.recipe, "--data", str(corpus)]
        command += ["--run-dir", str(run_dir), "--seed", str(self.seed), "--resume", "never"]
        command += ["--train.max-steps", str(self.n_updates), "--optim.lr", str(self.rate)]
        command += ["--optim.warmup-steps", str(self.warmup), "--tracking.wandb", "disabled"]
        command += ["--valid.interval-steps", str(self.n_updates)]
        log = out / f"{run_dir.name}.log"
        began = time.monotonic()
        with log.open("w") as told:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=told,
                stderr=told,
            )
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{run_dir.name} failed, see {log}")
        valid = validations(run_dir)[-1]
        found = {
            "kind": self.kind,
            "seed": self.seed,
            "rate": self.rate,
            "updates": self.n_updates,
            "parameters": self.n_parameters(corpus),
            "loss": valid["valid/loss"],
            "cpu_s": used.ru_utime + used.ru_stime,
            "wall_s": time.monotonic() - began,
        }
        write_atomically(run_dir / RESULT, json.dumps(found))
        return found

    def n_parameters(self, corpus: Path) -> int:
        """Return the number of the model's weights."""
        n_words = open_corpus(corpus).vocabulary.size
        return count_weights(load_recipe(self.recipe).model, n_words).total


def corpus_in(out: Path) -> Path:
    """Prepare the corpus: some books to train on, and the beginnings of others."""
    corpus = out / "corpus"
    if corpus.exists():
        return corpus
    out.mkdir(parents=True, exist_ok=True)
    flags = []
    for split, n_books, most in (("train", N_BOOKS, None), ("valid", None, N_CHARACTERS)):
        with lzma.open(CLASSICS / f"{split}.jsonl.xz", "rt") as books:
            texts = [json.loads(line)["text"][:most] for line in itertools.islice(books, n_books)]
        path = out / f"{split}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        flags += [f"--{split}", str(path)]
    command = [sys.executable, "-m", "trainer", "prepare", "--out", str(corpus), *PREPARE, *flags]
    subprocess.run(command, cwd=ROOT, check=True)
    return corpus


def table(results: list[dict[str, Any]]) -> str:
    """Return a table of each kind at its best rate, the best kind first."""
    by_kind: dict[str, dict[float, list[dict[str, Any]]]] = {}
    for result in results:
        by_kind.setdefault(result["kind"], {}).setdefault(result["rate"], []).append(result)
    rows = []
    for kind, by_rate in by_kind.items():
        rate, of = min(by_rate.items(), key=lambda pair: mean(pair[1], "loss"))
        losses = [result["loss"] for result in of]
        rows.append(
            f"| `{kind}` | {of[0]['parameters']:,} | {rate:g} | {of[0]['updates']:,} "
            f"| **{statistics.fmean(losses):.3f}** | {min(losses):.3f}–{max(losses):.3f} "
            f"| {statistics.median(result['cpu_s'] for result in of):.0f} |"
        )
    rows.sort(key=lambda row: float(row.split("**")[1]))
    head = "| kind | parameters | rate | updates | valid loss | of seeds | CPU s |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows]) + "\n"


def mean(results: list[dict[str, Any]], key: str) -> float:
    """Return the mean of a figure."""
    return statistics.fmean(result[key] for result in results)


if __name__ == "__main__":
    main()
