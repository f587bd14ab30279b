"""The copy task of Recurrent Memory Transformers: to say again what was shown long before.

    .venv/bin/python tests/benchmarks/recurrent/copy_task.py --out runs/copy [--segments 1 8]
        [--seed 1111]

A document shows some symbols in its first segment, has nothing to say in those between, and repeats
the symbols in its last: nothing but memory knows them. As in the paper the text begins with short
documents, of 2 segments, then 4, then 8. Trains recipe quickstart-rmt, small, with each number of
--train.bptt-segments on the same text, and tells how many symbols of new documents of 8 segments it
then predicts. The same command goes on where it was stopped.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import torch
from measured.processes import ROOT, machine
from torch import Tensor

import trainer
from trainer.protocol import IGNORED, Segment

SYMBOLS, N_SYMBOLS, LEAD = "abcdefgh", 4, "|"
#: Tokens of a segment, streams, and segments of the longest document.
T, B, LONGEST = N_SYMBOLS + 1, 64, 8
#: Steps of 8 segments, by the segments of their documents.
STAGES = {2: 500, 4: 900, 8: 1400}
N_TESTED = 256
FLAGS = {
    "--model.options.d-model": 64,
    "--model.options.n-layer": 2,
    "--model.options.n-head": 4,
    "--model.options.d-inner": 128,
    "--model.options.n-memory": N_SYMBOLS,
    "--model.init-std": 0.1,
    "--train.train-batch-size": B,
    "--train.tgt-len": T,
    "--valid.tgt-len": T,
    "--data.memory-reset": "document",
    "--optim.lr": 3e-3,
    "--optim.min-lr": 1.5e-3,
    "--tracking.wandb": "disabled",
    "--deepspeed-config": "zero0_fp32",
}


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of corpus and runs")
    parser.add_argument("--segments", type=int, nargs="+", default=[1, LONGEST])
    parser.add_argument("--seed", type=int, default=1111)
    told = parser.parse_args()
    corpus = corpus_in(told.out)
    lengths = [n for n in (2, 4, 6, 8) if n <= LONGEST]
    rows = []
    for k in told.segments:
        run_dir = told.out / f"k{k}-seed{told.seed}"
        train(run_dir, corpus, k, told.seed)
        shares = [f"{accuracy(run_dir, n):.1%}" for n in lengths]
        rows.append(f"| {k} | {' | '.join(shares)} |")
    head = " | ".join(f"{n} segments" for n in lengths)
    lines = [f"| bptt_segments | {head} |", "|---" * (len(lengths) + 1) + "|", *rows]
    chance = f"by chance {1 / len(SYMBOLS):.1%}"
    print(
        "\n".join([*lines, f"\n{sum(STAGES.values()) * LONGEST * T * B:,} tokens each; {chance}"])
    )
    print(machine("cpu"))


def document(draw: random.Random, n_segments: int) -> str:
    """Return the text of a document; a character is a token."""
    symbols = "".join(draw.choice(SYMBOLS) for _ in range(N_SYMBOLS))
    return symbols + "|" + "." * (T * (n_segments - 2)) + "=" + symbols


def documents(draw: random.Random) -> Iterator[str]:
    """Yield the documents to train on: every stream reads all stages, each document in a step.

    A first token, of which nobody asks, makes streams of as many pairs as they have tokens. So each
    document begins with the second token of a segment.
    """
    yield LEAD
    for _ in range(B):
        for n_segments, n_steps in STAGES.items():
            for _ in range(n_steps * LONGEST // n_segments):
                yield document(draw, n_segments)


def corpus_in(out: Path) -> Path:
    """Prepare the corpus."""
    corpus = out / "corpus"
    if corpus.exists():
        return corpus
    out.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    texts = {"train": documents(draw), "valid": (document(draw, LONGEST) for _ in range(64))}
    flags = ["--tokenizer", "bytes"]
    for split, of in texts.items():
        path = out / f"{split}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in of))
        flags += [f"--{split}", str(path)]
    command = [sys.executable, "-m", "trainer", "prepare", "--out", str(corpus), *flags]
    subprocess.run(command, cwd=ROOT, check=True)
    return corpus


def train(run_dir: Path, corpus: Path, k: int, seed: int) -> None:
    """Train with a gradient through k segments, if that is not done."""
    n_steps = sum(STAGES.values()) * LONGEST // k
    flags: dict[str, Any] = FLAGS | {
        "--data": corpus,
        "--run-dir": run_dir,
        "--seed": seed,
        "--train.bptt-segments": k,
        "--train.max-steps": n_steps,
        "--optim.warmup-steps": n_steps // 40,
        "--valid.interval-steps": n_steps,
    }
    words = [str(word) for pair in flags.items() for word in pair]
    command = [sys.executable, "-m", "trainer", "train", "quickstart-rmt", *words]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)


@torch.no_grad()
def accuracy(run_dir: Path, n_segments: int) -> float:
    """Return the share of symbols that new documents' last segments predict right."""
    draw = random.Random(n_segments)
    loaded = trainer.load(run_dir, device="cpu")
    texts = [LEAD + document(draw, n_segments) for _ in range(N_TESTED)]
    tokens_BN = torch.tensor([list(loaded.vocabulary.encode(text)) for text in texts])
    *segments, last_B1 = tokens_BN.split(T, dim=1)
    model: Any = loaded.module
    like = {"dtype": torch.float32, "device": torch.device("cpu")}
    memory = model.empty_memory(N_TESTED, mem_len=0, **like)
    for i, tokens_BT in enumerate(segments):
        log_probs_BTV, memory = model.predict(whole(tokens_BT, begins=i == 0), memory)
    asked_BN = torch.cat([segments[-1][:, 2:], last_B1], dim=1)
    is_right_BN = log_probs_BTV[:, 1:].argmax(dim=-1) == asked_BN
    return float(is_right_BN.float().mean())


def whole(tokens_BT: Tensor, *, begins: bool) -> Segment:
    """Return a segment of whole rows, without targets; a document begins with its second token."""
    n_rows, tgt_len = tokens_BT.shape
    starts_BT = torch.tensor([0] + [1] * (tgt_len - 1)) if begins else torch.full((tgt_len,), -1)
    return Segment(
        tokens_BT,
        torch.full_like(tokens_BT, IGNORED),
        torch.full((n_rows,), tgt_len),
        starts_BT.expand(n_rows, -1),
        (),
        (),
        0,
        True,
    )


if __name__ == "__main__":
    main()
