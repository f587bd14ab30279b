"""What only a GPU can say: one command, one table, under eight minutes on one card.

    .venv/bin/python tests/benchmarks/card.py --out card.json

Checks every Triton kernel and the whole model against PyTorch's own operations, measures a training
step of wt103-base at its full batch through DeepSpeed's engine, attention's blocks and what padded
rows are worth, and lists what waits for the device and what the device spends a step on. Hugging
Face's model is measured beside it where `tests/peer.sh` has put it, others as in compare.py.

Every part is a process of its own with a limit of time: one that fails is a row of the table, the
others go on, and the exit code is 1. `--device cpu` runs all that needs no card, at toy sizes under
Triton's interpreter: a test of this script, not of speed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measured.processes import ROOT, python_path
from measured.variants import Variant, peer_variants
from on_card.rows import Row, last_line, row

HERE = Path(__file__).parent
SUPPORT = tuple(HERE.parent / "support" / room for room in (".", "runs", "triton"))
#: Seconds that all parts have, and each at most.
BUDGET_S, LIMIT_S = 460, 150
#: Parts of `on_card.parts` before what is trained, and after it.
FIRST, THEN = ("environment", "model"), ("waits", "profile", "blocks", "products")
TESTS = {
    "attention": ["tests/model/triton/test_attention.py", "-m", "gpu"],
    "rows": ["tests/model/triton/test_rows.py"],
    "softmax": ["tests/model/triton/test_linear_nll.py"],
}


def environment_of(device: str) -> dict[str, str]:
    """Of a part's process."""
    changes = {"PYTHONPATH": python_path(ROOT, *SUPPORT, HERE)}
    if device == "cpu":
        changes |= {"TRITON_INTERPRET": "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return dict(os.environ) | changes


def run(command: list[Any], *, device: str, limit_s: float) -> tuple[int, str, str]:
    """Exit code and output of a command; if it takes too long it ends with all that it started."""
    process = subprocess.Popen(
        list(map(str, command)),
        env=environment_of(device),
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        err = f"took longer than {limit_s:.0f} s"
    return process.returncode, out, err


def part(name: str, argument: str, device: str, limit_s: float) -> list[Row]:
    """The rows of a part of `on_card.parts`, and one more if it failed."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        HERE / "on_card" / "parts.py",
        name,
        device,
        argument,
    ]
    code, out, err = run(command, device=device, limit_s=limit_s)
    rows = [Row(**json.loads(line)) for line in out.splitlines() if line.startswith('{"part"')]
    if code != 0:
        what = json.loads(argument)["name"] if argument else name
        rows.append(row(what, "the part itself", last_line(err), ok=False))
    return rows


def tests(name: str, _: str, device: str, limit_s: float) -> list[Row]:
    """Whether the tests of some kernels pass here."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS[name]]
    code, out, err = run(command, device=device, limit_s=limit_s)
    found = out.strip().splitlines()[-1] if out.strip() else last_line(err)
    return [row("tests", name, found, ok=code == 0)]


def variants(device: str, peers: list[tuple[Variant, ...]]) -> list[Variant]:
    """What is trained: ours by precision and kernels, and the peers that are here."""
    names = ["zero0_fp32"] if device == "cpu" else ["zero1_bf16", "zero1_fp16"]
    found = [
        Variant(
            name=f"ours, {name}, {kernels} kernels",
            script="ours_worker.py",
            ds_config=name,
            kernels=kernels,
        )
        for name in names
        for kernels in ("auto", "plain")
    ]
    if not peers and (ROOT / ".peer" / "transformers").is_dir():
        peers = [peer_variants("huggingface")]
    return found + [variant for pair in peers for variant in pair]


def main() -> int:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, help="write the rows there as JSON")
    parser.add_argument(
        "--peer",
        action="append",
        type=peer_variants,
        default=[],
        help="as of compare.py; Hugging Face's, if it is here, is the default",
    )
    parser.add_argument("--only", default="", help="the parts whose name holds this")
    told = parser.parse_args()
    jobs: dict[str, Any] = {name: (part, name, "") for name in FIRST}
    for variant in variants(told.device, told.peer):
        jobs[f"train {variant.name}"] = (part, "train", json.dumps(asdict(variant)))
    jobs |= {name: (part, name, "") for name in THEN}
    jobs |= {f"tests {name}": (tests, name, "") for name in TESTS}
    rows, began = list[Row](), time.monotonic()
    for name, (work, *what) in jobs.items():
        left_s = BUDGET_S - (time.monotonic() - began)
        if told.only not in name:
            continue
        if left_s < 10:
            found = [row(name, "the part itself", "there was no time left for it", ok=False)]
        else:
            found = work(*what, told.device, min(LIMIT_S, left_s))
        rows += found
        for one in found:
            print(one, flush=True)
        if told.out:
            told.out.write_text(json.dumps([vars(one) for one in rows], indent=1) + "\n")
    n_failed = sum(not one.ok for one in rows)
    print(f"{len(rows)} rows in {time.monotonic() - began:.0f} s, {n_failed} failed")
    return int(n_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
