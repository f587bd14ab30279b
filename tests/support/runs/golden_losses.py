"""Thirty steps under every DeepSpeed file that a CPU can run, and how near their losses must come.

**How far two correct runs may lie apart.** Rounding differs between processors and versions of
libraries, because sums are taken in another order. With u the rounding error of the precision, the
loss of one step is the mean over N targets of nats whose errors are about u, each drawn anew: it is
wrong by about u/√(12N), and the sum in fp32 by a few 2^-24. `SAFETY` times that is allowed at the
first step. Adam then carries differences on: between this project's two orders of operations on a
CPU (`--model.kernels auto` and `plain`) they doubled about every three steps, and stayed below 2e-4
of the loss. So the allowance doubles every `DOUBLES` steps, up to `MOST`.
"""

import math
from pathlib import Path

from training import KINDS, Case, make_corpus, run_cases

from trainer import read_metrics

FLAGS = [
    "--train.train-micro-batch-size-per-gpu",
    "4",
    "--model.dropout",
    "0.1",
    "--model.attn-dropout",
    "0.1",
    "--optim.lr",
    "3e-3",
]
GOLDEN = Path(__file__).parents[2] / "whole" / "numbers" / "golden" / "losses.json"
#: Rounding errors of precisions, relative.
ROUNDING = {"fp32": 2.0**-24, "bf16": 2.0**-8, "fp16": 2.0**-11}
#: Targets of a step: 8 streams of 12.
N_TARGETS = 96
SAFETY, DOUBLES, MOST = 8, 3, 3e-3
#: Of learning rates, which are computed in double precision, by the same formula everywhere.
RATES_AGREE = 1e-9


def allowed(kind: str, step: int) -> float:
    """Return the relative difference that the loss of a step may have, counted from 1."""
    precision = next(name for name in ROUNDING if name in kind)
    of_one = 4 * ROUNDING["fp32"] + ROUNDING[precision] / math.sqrt(12 * N_TARGETS)
    return min(MOST, SAFETY * of_one * 2 ** ((step - 1) / DOUBLES))


def trained(folder: Path) -> dict[str, list[float]]:
    """Return losses of all steps by DeepSpeed file, and the learning rates, the same for all."""
    corpus = make_corpus(folder / "corpus")
    cases = {kind: Case(folder / kind, kind, FLAGS) for kind in KINDS}
    run_cases(list(cases.values()), corpus=corpus, n_ranks=1)
    records = {kind: list(read_metrics(case.run_dir, kind="train")) for kind, case in cases.items()}
    rates = {kind: [record["optim/lr"] for record in found] for kind, found in records.items()}
    assert len({str(rate) for rate in rates.values()}) == 1, "the rates depend on the file"
    losses = {kind: [record["train/loss"] for record in found] for kind, found in records.items()}
    return losses | {"lr": rates[KINDS[0]]}


def drifts(found: dict[str, list[float]], golden: dict[str, list[float]]) -> list[str]:
    """Return a line for each file whose losses have drifted: from which step on, and how far."""
    lines = []
    for name, expected in golden.items():
        for step, (now, then) in enumerate(zip(found[name], expected, strict=True), start=1):
            most = RATES_AGREE if name == "lr" else allowed(name, step)
            off = abs(now - then) / max(abs(then), 1e-30)
            if not off <= most:
                lines.append(
                    f"{name}: from step {step} on: {now!r}, was {then!r}, off by {off:.1e} where "
                    f"{most:.1e} is allowed"
                )
                break
    return lines
