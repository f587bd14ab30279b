"""Beyond its passes a step asks little of the host, however many parameters there are."""

import json
import subprocess
import sys
from pathlib import Path

from training import ROOT, environment

SCRIPT = ROOT / "tests/benchmarks/without_card/operations.py"


#: The largest number of operations after the last backward pass. At stage 1 two for each of 205
#: parameters are DeepSpeed's copies; at stage 2 they are made during the backward pass.
MOST_IN_AN_UPDATE = {"zero0_bf16_autocast": 80, "zero1_bf16": 480, "zero2_bf16": 80}
CAPTURED = ("zero0_bf16_autocast, captured", "zero1_bf16, captured")


def test_an_update_takes_as_many_operations_as_there_are_groups_of_parameters(
    tmp_path: Path,
) -> None:
    out = ("--out", tmp_path / "counts.json")
    command = [sys.executable, SCRIPT, *CAPTURED, *MOST_IN_AN_UPDATE, *out]
    done = subprocess.run(
        list(map(str, command)), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "counts.json").read_text())
    totals = {file: {part: sum(n.values()) for part, n in found[file].items()} for file in found}
    for file, most in MOST_IN_AN_UPDATE.items():
        parts = totals[file]
        assert 200 < parts["forward"] < parts["backward"], "something is counted"
        assert parts["reduction, norm, update"] <= most, file
    assert sum(totals["zero1_bf16"].values()) <= 1800
    for file, most in zip(CAPTURED, (60, 500), strict=True):
        parts = totals[file]
        outside = parts["reduction, norm, update"] + parts["beside"]
        assert 10 < outside <= most
        assert 500 < sum(parts.values()) - outside <= 1100
