"""Runs of the product's own command on books: what each gives, and what it costs."""

import itertools
import json
import lzma
import math
import os
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from measured.processes import ROOT
from target.calls import validations
from target.texts import CLASSICS, sources

from trainer.errors import Exit
from trainer.files import write_atomically

#: Books to train on, and characters of each book to validate on.
N_BOOKS, N_CHARACTERS = 20, 200_000
RESULT = "result.json"


def books_in(out: Path, *, vocab_size: int = 4096) -> Path:
    """Prepare a corpus: some books to train on, and the beginnings of others to validate on.

    Where there are no books it is of the sources that the quick start reads.
    """
    corpus = out / "corpus"
    if corpus.exists():
        return corpus
    out.mkdir(parents=True, exist_ok=True)
    flags = _books(out) if CLASSICS.is_dir() else sources([])
    flags += ["--tokenizer", "bpe", "--vocab-size", str(vocab_size)]
    command = [sys.executable, "-m", "trainer", "prepare", "--out", str(corpus), *flags]
    subprocess.run(command, cwd=ROOT, check=True)
    return corpus


def _books(out: Path) -> list[str]:
    """Write the texts, and return flags that name them."""
    flags = []
    for split, n_books, most in (("train", N_BOOKS, None), ("valid", None, N_CHARACTERS)):
        with lzma.open(CLASSICS / f"{split}.jsonl.xz", "rt") as books:
            texts = [json.loads(line)["text"][:most] for line in itertools.islice(books, n_books)]
        path = out / f"{split}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        flags += [f"--{split}", str(path)]
    return flags


def trained(
    run_dir: Path, corpus: Path, *words: str, seed: int, n_updates: int, flags: dict[str, Any]
) -> dict[str, Any]:
    """Train once with one thread, and validate at the end; a run that is done is not repeated.

    Args:
        run_dir: of the run; one that was stopped there is removed.
        corpus: to train on.
        words: a recipe, and flags.
        seed: of the run.
        n_updates: to train.
        flags: more flags, with their values.

    Returns:
        `loss`, nats per token of the last validation, endless if the run diverged; `cpu_s`,
        processor seconds of all processes, start and validation included; `peak_gib`, the most
        memory that the largest held.

    Raises:
        SystemExit: the run failed, or another one is there.
    """
    flags = flags | {
        "--data": corpus,
        "--seed": seed,
        "--train.max-steps": n_updates,
        "--valid.interval-steps": n_updates,
        "--checkpoint.keep-last": 1,
        "--tracking.wandb": "disabled",
    }
    given = [*words, *(str(word) for pair in flags.items() for word in pair)]
    if (run_dir / RESULT).is_file():
        found: dict[str, Any] = json.loads((run_dir / RESULT).read_text())
        if found["words"] != given:
            raise SystemExit(
                f"{run_dir} was trained with other words, {shlex.join(found['words'])}: remove it, "
                "or take another --out"
            )
        return found
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    code, used = _train(
        [*given, "--run-dir", str(run_dir)], log=run_dir.with_name(f"{run_dir.name}.log")
    )
    loss = validations(run_dir)[-1]["valid/loss"] if code == Exit.DONE else None
    found = {
        "words": given,
        "loss": math.inf if loss is None else loss,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_gib": used.ru_maxrss / (1 << 20),
    }
    write_atomically(run_dir / RESULT, json.dumps(found))
    return found


def _train(words: list[str], *, log: Path) -> tuple[int, resource.struct_rusage]:
    """Run `txl train` with one thread; return its exit code, and what its processes used.

    Raises:
        SystemExit: it failed, and did not diverge.
    """
    with log.open("w") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer", "train", *words],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=told,
            stderr=told,
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (Exit.DONE, Exit.NONFINITE):
        raise SystemExit(f"training failed, see {log}")
    return process.returncode, used
