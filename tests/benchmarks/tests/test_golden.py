"""The script that holds a tree against another: equal numbers, and what differs by name."""

import json
import subprocess
import sys
from pathlib import Path

from training import ROOT, environment

SCRIPT = ROOT / "tests" / "benchmarks" / "golden.py"


def test_a_tree_equals_itself_and_what_differs_is_named(tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"

    def golden(*flags: object) -> tuple[int, list[str]]:
        command = [sys.executable, SCRIPT, "--only", "zero0_fp32", "--ranks", "1", *flags]
        done = subprocess.run(
            list(map(str, command)), env=environment(), capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout.splitlines()

    assert golden("--out", before) == (0, [])
    values = json.loads(before.read_text())
    assert len(values["zero0_fp32, 1 ranks: train/loss"]) == 30
    values["zero0_fp32, 1 ranks: train/loss"][7] *= 1 + 1e-6
    values["generated"] += "."
    before.write_text(json.dumps(values))
    code, said = golden("--out", after, "--against", before)
    assert code == 1
    assert said == [
        "generated: differs",
        "zero0_fp32, 1 ranks: train/loss: differs by at most 1.0e-06",
        f"2 of {len(values)} differ",
    ]
