"""Runs of the product's own command on books: what each gives, and what it costs."""

import itertools
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from measured.processes import ROOT
from target.calls import validations
from target.texts import CLASSICS

from trainer.files import write_atomically

#: Books to train on, and characters of each book to validate on.
N_BOOKS, N_CHARACTERS = 20, 200_000
PREPARE = ["--tokenizer", "bpe", "--vocab-size", "4096"]
RESULT = "result.json"


def books_in(out: Path) -> Path:
    """Prepare a corpus: some books to train on, and the beginnings of others to validate on."""
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


def trained(
    run_dir: Path, corpus: Path, recipe: str, *, seed: int, n_updates: int, flags: dict[str, Any]
) -> dict[str, float]:
    """Train once with one thread, and validate at the end; a run that is done is not repeated.

    Returns:
        `loss`, nats per token of the last validation; `cpu_s`, processor seconds of all processes,
        start and validation included; `peak_gib`, the most memory that the largest held.

    Raises:
        SystemExit: the run failed.
    """
    if (run_dir / RESULT).is_file():
        found: dict[str, float] = json.loads((run_dir / RESULT).read_text())
        return found
    flags = flags | {
        "--data": corpus,
        "--run-dir": run_dir,
        "--resume": "never",
        "--seed": seed,
        "--train.max-steps": n_updates,
        "--valid.interval-steps": n_updates,
        "--tracking.wandb": "disabled",
    }
    words = [str(word) for pair in flags.items() for word in pair]
    log = run_dir.with_name(f"{run_dir.name}.log")
    with log.open("w") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer", "train", recipe, *words],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=told,
            stderr=told,
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{run_dir.name} failed, see {log}")
    found = {
        "loss": validations(run_dir)[-1]["valid/loss"],
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_gib": used.ru_maxrss / (1 << 20),
    }
    write_atomically(run_dir / RESULT, json.dumps(found))
    return found
