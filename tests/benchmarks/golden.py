"""Numbers of real runs, to hold a tree against: the same before and after a change that moves code.

    .venv/bin/python tests/benchmarks/golden.py --out before.json
    .venv/bin/python tests/benchmarks/golden.py --out after.json --against before.json

Trains 30 steps of a small Transformer-XL on one and on two ranks under every DeepSpeed file that a
CPU can run, with dropout, two slots and a loss scale that overflows; keeps the losses and norms of
all steps, what checkpoints hold, the nats of two evaluations and what is generated. With
`--against` each number that differs is listed with its relative difference, and the exit code is 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
sys.path[:0] = [str(ROOT), *(str(SUPPORT / room) for room in (".", "runs", "texts"))]

from training import (  # noqa: E402
    KINDS,
    Case,
    checkpoint_hashes,
    environment,
    make_corpus,
    overflowing,
    run_cases,
)

from trainer import read_metrics  # noqa: E402

FLAGS = [
    "--train.train-micro-batch-size-per-gpu",
    "2",
    "--train.max-steps",
    "30",
    "--model.dropout",
    "0.2",
    "--model.attn-dropout",
    "0.1",
    "--optim.lr",
    "3e-3",
    "--checkpoint.interval-steps",
    "15",
]
#: Flags of `txl eval`, by a name.
EVALUATIONS = {
    "as it was trained": [],
    "long memory": ["--mem-len", "64", "--clamp-len", "40", "--same-length", "True"],
}


def numbers(folder: Path, *, kinds: Sequence[str], most_ranks: int) -> dict[str, Any]:
    """Return all numbers of this tree, by name."""
    corpus = make_corpus(folder / "corpus")
    found: dict[str, Any] = {}
    for n_ranks in range(1, most_ranks + 1):
        runs = {kind: folder / f"{kind}-{n_ranks}" for kind in kinds}
        cases = [Case(run, overflowing(kind, folder), FLAGS) for kind, run in runs.items()]
        run_cases(cases, corpus=corpus, n_ranks=n_ranks)
        for kind, run in runs.items():
            found |= of_run(run, f"{kind}, {n_ranks} ranks")
    run = folder / f"{kinds[0]}-1"
    for name, flags in EVALUATIONS.items():
        per_token = folder / "nats.jsonl"
        txl(
            "eval",
            run,
            "--checkpoint",
            "last",
            "--split",
            "valid",
            "--per-token-text",
            per_token,
            *flags,
        )
        lines = per_token.read_text().splitlines()
        found[f"evaluation {name}"] = [float(line.split("\t")[-1]) for line in lines[1:]]
    found["generated"] = txl(
        "generate", run, "--checkpoint", "last", "--prompt", "the", "--n-tokens", "40"
    )
    return found


def of_run(run: Path, name: str) -> dict[str, Any]:
    """Return losses, norms and skipped steps of a run, and the hashes of its last checkpoint."""
    records = list(read_metrics(run, kind="train"))
    found: dict[str, Any] = {
        f"{name}: {metric}": [record.get(metric) for record in records]
        for metric in ("train/loss", "optim/grad_norm", "optim/lr")
    }
    found[f"{name}: checkpoint"] = checkpoint_hashes(run, 30)
    return found


def txl(*argv: Any) -> str:
    """Return what a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *map(str, argv)],
        env=environment() | DEVICE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


DEVICE = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return a line for each name whose numbers are not the same."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        comparable = isinstance(old, list) and isinstance(new, list) and len(old) == len(new)
        if comparable and all(isinstance(x, float) for x in [*old, *new]):
            most = max(abs(a - b) / max(abs(a), 1e-30) for a, b in zip(old, new, strict=True))
            lines.append(f"{name}: differs by at most {most:.1e}")
        else:
            lines.append(f"{name}: differs")
    return lines


def main() -> int:
    """Write the numbers, and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="write the numbers there as JSON")
    parser.add_argument("--against", type=Path, help="numbers of another tree")
    parser.add_argument("--only", nargs="+", default=KINDS, help="DeepSpeed files")
    parser.add_argument("--ranks", type=int, default=2, help="at most")
    told = parser.parse_args()
    os.environ |= DEVICE
    with tempfile.TemporaryDirectory() as folder:
        found = numbers(Path(folder), kinds=told.only, most_ranks=told.ranks)
    told.out.write_text(json.dumps(found) + "\n")
    if told.against is None:
        return 0
    lines = differences(json.loads(told.against.read_text()), found)
    print("\n".join([*lines, f"{len(lines)} of {len(found)} differ"]))
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
