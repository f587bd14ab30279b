"""Beyond its passes a step asks little of the host, however many parameters there are."""

import json
import subprocess
import sys
from pathlib import Path

from training import ROOT, environment

SCRIPT = ROOT / "tests/benchmarks/without_card/operations.py"


def test_an_update_takes_as_many_operations_as_there_are_groups_of_parameters(
    tmp_path: Path,
) -> None:
    command = [sys.executable, SCRIPT, "--out", tmp_path / "counts.json"]
    done = subprocess.run(
        list(map(str, command)), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "counts.json").read_text())
    totals = {file: {part: sum(n.values()) for part, n in found[file].items()} for file in found}
    captured = totals.pop("zero0_bf16_autocast, captured")
    for file, parts in totals.items():
        assert 200 < parts["forward"] < parts["backward"], "something is counted"
        assert parts["reduction, norm, update"] <= 80, file
    assert sum(totals["zero1_bf16"].values()) <= 1800
    outside = captured["reduction, norm, update"] + captured["beside"]
    assert 10 < outside <= 60
    assert 500 < sum(captured.values()) - outside <= 1000
