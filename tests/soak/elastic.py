"""Resumes runs on other ranks, at other ZeRO stages and in other precisions: from each to each.

    python tests/soak/elastic.py                            # 1, 2 and 4 ranks: 1,296 resumes
    python tests/soak/elastic.py --ranks 1 2 --kinds zero0_fp32 zero3_bf16

A run of each kind saves its state; from a copy of it each kind goes on. Its next loss must be that
of the run itself, but for the rounding of its precision. The table has, by precision before and
after, the largest relative difference, and how many resumes it is of.
"""

import argparse
import itertools
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), *(str(TESTS / "support" / room) for room in ("runs", "texts"))]

from training import KINDS, Case, begun_from, losses, make_corpus, run_cases  # noqa: E402

#: The step whose state is taken over, and the last one.
SAVED, LAST = 10, 12
FLAGS = ("--train.max-steps", str(LAST), "--checkpoint.interval-steps", str(SAVED))
#: Relative to the loss: what a sum in another order changes, and rounding to 16 bits.
TOLERANCES = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 5e-3}
#: Resumes in the same processes.
AT_ONCE = 108
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Setting:
    """Ranks and a DeepSpeed file."""

    ranks: int
    kind: str

    @property
    def precision(self) -> str:
        """The precision, autocast or not."""
        return self.kind.split("_")[1]

    def __str__(self) -> str:
        return f"{self.kind} on {self.ranks}"


@dataclass(frozen=True)
class Resume:
    """A run that went on in another setting."""

    before: Setting
    after: Setting
    difference: float
    """The difference of the next loss, relative to that of the run itself."""

    @property
    def is_well(self) -> bool:
        """True if the difference is rounding."""
        precisions = self.before.precision, self.after.precision
        return self.difference <= max(TOLERANCES[precision] for precision in precisions)


def resumes(settings: list[Setting], *, corpus: Path, folder: Path) -> list[Resume]:
    """Train in each setting, and go on from each in each."""
    sources = {setting: folder / str(setting) for setting in settings}
    for ranks, of_ranks in _by_ranks(settings):
        cases = [_case(sources[setting], setting) for setting in of_ranks]
        run_cases(cases, corpus=corpus, n_ranks=ranks, timeout_s=_HOUR_S)
    expected = {setting: losses(run_dir)[SAVED + 1] for setting, run_dir in sources.items()}
    found = []
    for ranks, of_ranks in _by_ranks(settings):
        pairs = list(itertools.product(settings, of_ranks))
        for begin in range(0, len(pairs), AT_ONCE):
            some = pairs[begin : begin + AT_ONCE]
            targets = [folder / f"{before} to {after}" for before, after in some]
            for (before, _), target in zip(some, targets, strict=True):
                begun_from(sources[before], SAVED, target)
            cases = [_case(target, after) for (_, after), target in zip(some, targets, strict=True)]
            run_cases(cases, corpus=corpus, n_ranks=ranks, timeout_s=_HOUR_S)
            for (before, after), target in zip(some, targets, strict=True):
                loss = losses(target)[SAVED + 1]
                found.append(Resume(before, after, abs(loss / expected[before] - 1)))
                shutil.rmtree(target)
            print(f"to {ranks} ranks: {begin + len(some)} of {len(pairs)}", flush=True)
    return found


def _by_ranks(settings: list[Setting]) -> list[tuple[int, list[Setting]]]:
    ranks = sorted({setting.ranks for setting in settings})
    return [(n, [setting for setting in settings if setting.ranks == n]) for n in ranks]


def _case(run_dir: Path, setting: Setting) -> Case:
    return Case(run_dir, ds_config=setting.kind, flags=list(FLAGS))


def table(found: list[Resume]) -> str:
    """Return the table as Markdown: precisions before, and after."""
    precisions = list(dict.fromkeys(one.before.precision for one in found))
    rows = [f"| from, to | {' | '.join(precisions)} |", "|---" * (len(precisions) + 1) + "|"]
    for before in precisions:
        cells = []
        for after in precisions:
            of = [
                one
                for one in found
                if (one.before.precision, one.after.precision) == (before, after)
            ]
            cells.append(f"{max(one.difference for one in of):.0e} ({len(of)})")
        rows.append(f"| {before} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    pairs = itertools.product(options.ranks, options.kinds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        corpus = make_corpus(folder / "corpus")
        found = resumes(
            [Setting(ranks, kind) for ranks, kind in pairs], corpus=corpus, folder=folder
        )
    print(table(found))
    bad = [one for one in found if not one.is_well]
    for one in bad:
        print(f"FAULT: {one.before} to {one.after}: {one.difference:.1e}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
