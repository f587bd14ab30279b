"""What only a GPU can say: one command, one table, under eight minutes on one card.

    .venv/bin/python tests/benchmarks/card.py --out card.json

First what has to hold: kernels and the whole model against PyTorch's own operations, a captured run
against one that is not, a resumed one against one in one go, and a run as users start it. Then
speed: the step of wt103-base at its full batch by DeepSpeed file, captured and not, beside Hugging
Face's model, which `tests/peer.sh` puts here, and a plain GPT, in turns; wt103-large with fewer
streams. Each with the host's time and the device's apart, its memory beside the plan's, and the
ledger's prediction where there is one. Last: what waits for the device, what the device spends a
step on, attention's blocks and what padded rows are worth.

Every part is a process of its own with a limit of time: one that fails is a row, the others go on,
and the exit code is 1. `--out` is written after each part, and what those that fail say beside it,
as `.log`. `--only` and `--skip` choose parts, and `--table FIRST.json SECOND.json` makes one table
of what several calls have found. `--device cpu` runs all that needs no card, at toy sizes under
Triton's interpreter: a test of this script.
"""

import argparse
import json
import os
import re
import sys
import time
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from measured.processes import ROOT
from measured.variants import Variant, peer_variants
from on_card.fields import DEFAULT, ON_A_CARD, ON_A_CPU, Field
from on_card.jobs import Job, done
from on_card.rows import Row
from on_card.table import markdown

#: Seconds that all parts have.
BUDGET_S = 460
KERNELS = "tests/model/triton"
#: What is checked, the quickest first; nothing of it is timed, so all of it runs at once.
CHECKS = (
    Job(name="environment", part="environment", limit_s=60),
    Job(name="prediction", part="prediction", limit_s=90),
    Job(name="captured", part="captured", limit_s=150),
    Job(name="resumed", part="resumed", limit_s=150),
    Job(name="default run", part="default_run", limit_s=150),
    Job(name="tests of softmax", tests=(f"{KERNELS}/test_linear_nll.py",), limit_s=150),
    Job(
        name="tests of rows", tests=(f"{KERNELS}/rows", f"{KERNELS}/test_products.py"), limit_s=150
    ),
    Job(
        name="tests of attention", tests=("-m", "gpu", f"{KERNELS}/test_attention.py"), limit_s=150
    ),
    Job(
        name="tests of reading ahead and graphs",
        tests=("-m", "gpu", "tests/data/test_read_ahead.py", "tests/engine/passes/test_graphs.py"),
        limit_s=60,
    ),
    Job(name="model", part="model", limit_s=150),
)
LAST = (
    Job(name="kernels", part="kernels", limit_s=60),
    Job(name="waits", part="waits", limit_s=60),
    Job(name="products", part="products", limit_s=40),
    Job(name="blocks", part="blocks", limit_s=90),
)


def fields_of(device: str, peers: list[tuple[Variant, ...]]) -> list[Field]:
    """Return what is trained in turns: ours, and the peers that are here."""
    fields = list(ON_A_CPU if device == "cpu" else ON_A_CARD)
    first = fields[0]
    return fields + [
        Field(
            name=pair[0].name,
            config=first.config,
            variants=pair if device == "cpu" else (DEFAULT, *pair),
            recipe=first.recipe,
        )
        for pair in peers
    ]


def measured_jobs(device: str, peers: list[tuple[Variant, ...]]) -> list[Job]:
    """Return what is timed, one after the other."""
    speed = [
        Job(name=f"speed of {field.name}", part="speed", told=asdict(field), limit_s=field.limit_s)
        for field in fields_of(device, peers)
    ]
    return [*speed, *LAST]


def measure(told: argparse.Namespace) -> list[Row]:
    """Do the parts that are asked for; print rows, and keep them, as they come."""
    rows, deadline = list[Row](), time.monotonic() + told.seconds

    def wanted(jobs: list[Job]) -> list[Job]:
        named = [job for job in jobs if re.search(told.only, job.name)]
        return [job for job in named if not (told.skip and re.search(told.skip, job.name))]

    def shared(jobs: list[Job], *, at_once: int) -> None:
        for job, found, said in done(jobs, told.device, deadline=deadline, at_once=at_once):
            for one in found:
                print(one, flush=True)
            rows.extend(found)
            if told.out and said:
                with told.out.with_suffix(".log").open("a") as log:
                    log.write(f"== {job.name}\n{said}\n")
            if told.out:
                draft = told.out.with_name(f"{told.out.name}.tmp")
                draft.write_text(json.dumps([vars(one) for one in rows], indent=1) + "\n")
                draft.replace(told.out)

    if not (ROOT / ".peer" / "transformers").is_dir():
        print("Hugging Face's model is not here, and its rows will fail: bash tests/peer.sh")
    shared(wanted(list(CHECKS)), at_once=max(1, (os.cpu_count() or 1) // 2))
    shared(wanted(measured_jobs(told.device, told.peer)), at_once=1)
    return rows


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, help="write the rows there as JSON, after each part")
    parser.add_argument(
        "--peer",
        action="append",
        type=peer_variants,
        default=[],
        help="one more, as of compare.py",
    )
    parser.add_argument("--only", default="", help="the parts whose name has this pattern")
    parser.add_argument("--skip", default="", help="not the parts whose name has this pattern")
    parser.add_argument("--seconds", type=float, default=BUDGET_S, help="that all parts have")
    parser.add_argument(
        "--table",
        nargs="+",
        type=Path,
        metavar="OUT",
        help="measure nothing: the table of these files of rows, of which a later one counts",
    )
    return parser.parse_args()


def main() -> int:
    """Measure, print, and keep the rows."""
    told, began = arguments(), time.monotonic()
    if told.table:
        files = (json.loads(path.read_text()) for path in told.table)
        rows = [Row(**values) for values in chain.from_iterable(files)]
    else:
        rows = measure(told)
    n_failed = sum(not one.ok for one in rows)
    print(f"\n{markdown(rows)}\n")
    print(f"{len(rows)} rows in {time.monotonic() - began:.0f} s, {n_failed} failed")
    return int(n_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
