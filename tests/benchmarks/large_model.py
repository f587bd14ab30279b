"""What a model larger than one device asks of a rank at start, load and save; and of 512 ranks.

    OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/large_model.py [--layers 28] [--ranks 2]

Real ranks over gloo build a model at stage 3 in fp32, save it, and load it in new processes.
Measured is the most resident memory of a rank (VmHWM) beyond that before the model, and the bytes
of the tensors that the rank owns at that moment: its parts of weights (which DeepSpeed has twice),
gradients and moments. What lies beyond is told as a fraction of the whole fp32 model.

The bytes that ranks read, write and send are counted at 1, 2 and 4 ranks on a small model, and held
against formulas. A table says by the formulas what they are for 7 billion parameters.
"""

import argparse
import json
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
sys.path[:0] = [str(ROOT), *(str(SUPPORT / room) for room in (".", "runs"))]

from measured.large import (  # noqa: E402
    HUGE,
    LARGE,
    N_WORDS,
    SMALL,
    count,
    experiment_of,
    load_again,
    start_and_save,
)
from ranks import told_by_ranks  # noqa: E402

from trainer.checkpoint.contents.index import INDEX, index_of, write_index  # noqa: E402
from trainer.model.build import build_in_parts  # noqa: E402

#: Bytes of a parameter's weight and two moments.
SAVED = 12


def measure(sizes: dict[str, int], n_words: int, folder: Path, *, n_ranks: int) -> dict[str, float]:
    """Return the largest of all ranks' numbers, by name."""
    (folder / "sizes.json").write_text(json.dumps([sizes, n_words]))
    told: dict[str, float] = {}
    for work in (start_and_save, load_again):
        ranks = told_by_ranks(work, folder, n_ranks=n_ranks, timeout_s=500)
        told |= {name: max(rank[name] for rank in ranks) for name in ranks[0]}
    return told


def beyond(told: dict[str, float], moment: str) -> float:
    """Return what is taken beyond the rank's own at a moment, as a share of the fp32 model."""
    return (told[moment] - told[f"owned at {moment}"]) / (4 * told["parameters"])


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Bytes of one rank, by formulas."""

    shapes: dict[str, tuple[int, ...]]
    n_ranks: int
    itemsize: int
    """Bytes of a weight that computes."""

    @property
    def n_parameters(self) -> int:
        return sum(map(math.prod, self.shapes.values()))

    @property
    def sent_at_start(self) -> float:
        """Return what is sent: DeepSpeed gathers each parameter once, for its hooks; we none."""
        return self.itemsize * self.n_parameters * (1 - 1 / self.n_ranks)

    @property
    def own(self) -> float:
        """Return the bytes of weights and moments that are written, or read, or hashed."""
        return SAVED * self.n_parameters / self.n_ranks

    def index_bytes(self) -> int:
        """Return the bytes of the index, which each rank reads and whose parts rank 0 gathers."""
        parts: dict[int, list[tuple[str, int, int]]] = {}
        for name, shape in self.shapes.items():
            n_elements = math.prod(shape)
            size = -(-n_elements // self.n_ranks)
            for rank in range(-(-n_elements // size)):
                begin = rank * size
                parts.setdefault(rank, []).append((name, begin, min(size, n_elements - begin)))
        with tempfile.TemporaryDirectory() as folder:
            write_index(index_of(self.shapes, parts), Path(folder))
            return (Path(folder) / INDEX).stat().st_size


def shapes_of(sizes: dict[str, int], n_words: int) -> dict[str, tuple[int, ...]]:
    model = build_in_parts(experiment_of(sizes, 1).model, vocabulary_size=n_words, seed=1).model
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def counts(n_ranks: int) -> list[dict[str, Any]]:
    """Return what each rank counts on the small model."""
    with tempfile.TemporaryDirectory() as folder:
        told: list[dict[str, Any]] = told_by_ranks(count, Path(folder), n_ranks=n_ranks)
    return told


def tell_memory(told: dict[str, float], n_ranks: int) -> None:
    """Print what was measured."""
    whole = 4 * told["parameters"]
    print(f"{told['parameters'] / 1e6:,.0f} million parameters in fp32 on {n_ranks} ranks")
    print(f"{'':6}{'peak':>10}{'own':>10}  beyond, of the whole model   seconds")
    for moment in ("start", "save", "load"):
        peak, own = told[moment] / 2**20, told[f"owned at {moment}"] / 2**20
        seconds = f"{told[f'{moment}_s']:.1f}"
        if moment == "save":
            seconds += f", of which steps wait {told['save waits_s']:.1f}"
        print(f"{moment:6}{peak:6,.0f} MiB{own:6,.0f} MiB  {beyond(told, moment):.3f}", end="")
        print(f" of {whole / 2**20:,.0f} MiB{'':8}{seconds}")


def tell_bytes() -> None:
    """Print what was counted beside the formulas, and the formulas for 7 billion parameters."""
    print(f"{'MB per rank':34}{'sent at start':>15}{'written':>12}{'sent to save':>14}", end="")
    print(f"{'read':>12}{'hashed':>12}{'index':>8}")
    row = "{:34}{:15,.3f}{:12,.3f}{:14,.3f}{:12,.3f}{:12,.3f}{:8,.3f}"
    for n_ranks in (1, 2, 4):
        told = max(counts(n_ranks), key=lambda rank: rank["load"]["hashed"])
        shapes = shapes_of(SMALL, N_WORDS["small"])
        small = Expected(shapes=shapes, n_ranks=n_ranks, itemsize=4)
        found = (
            told["start"]["sent"],
            told["save"]["written"],
            told["save"]["sent"],
            told["load"]["read"],
            told["load"]["hashed"],
        )
        name = f"counted, {n_ranks} ranks"
        print(row.format(name, *(x / 1e6 for x in found), small.index_bytes() / 1e6))
        _tell_expected(f"expected, {n_ranks} ranks", row, small)
    shapes = shapes_of(HUGE, N_WORDS["huge"])
    for n_ranks in (8, 64, 512):
        huge = Expected(shapes=shapes, n_ranks=n_ranks, itemsize=2)
        name = f"{huge.n_parameters / 1e9:.1f} billion in bf16, {n_ranks} ranks"
        _tell_expected(name, row, huge)


def _tell_expected(name: str, row: str, expected: Expected) -> None:
    index, own = expected.index_bytes(), expected.own
    sent = index * (1 - 1 / expected.n_ranks)
    print(
        row.format(name, *(x / 1e6 for x in (expected.sent_at_start, own, sent, own, own, index)))
    )


def main() -> None:
    """Measure, count, and print both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=28, help="0 measures no memory")
    parser.add_argument("--ranks", type=int, default=2)
    asked = parser.parse_args()
    if asked.layers:
        sizes = {**LARGE, "n_layer": asked.layers}
        with tempfile.TemporaryDirectory() as folder:
            told = measure(sizes, N_WORDS["large"], Path(folder), n_ranks=asked.ranks)
        tell_memory(told, asked.ranks)
    tell_bytes()


if __name__ == "__main__":
    main()
