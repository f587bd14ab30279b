"""The script for a GPU: what fails is a row and an exit code, and the rest goes on."""

import json
import subprocess
import sys
from pathlib import Path

from training import ROOT, environment

SCRIPT = ROOT / "tests" / "benchmarks" / "card.py"


def rows_of(path: Path, *flags: str) -> tuple[int, list[dict]]:
    """Exit code and rows of a run that needs no GPU."""
    command = [sys.executable, SCRIPT, "--device", "cpu", "--out", path, *flags]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    rows = json.loads(path.read_text())
    assert f"{len(rows)} rows" in done.stdout, done.stderr
    return done.returncode, rows


def test_a_part_says_what_it_found(tmp_path: Path) -> None:
    code, rows = rows_of(tmp_path / "rows.json", "--only", "products")
    assert code == 0
    assert len(rows) == 4
    assert all(row["ok"] and row["value"] > 0 for row in rows)


def test_a_part_that_fails_is_a_row_and_an_exit_code(tmp_path: Path) -> None:
    peer = ["--peer", f"nvidia={tmp_path}"]
    code, rows = rows_of(tmp_path / "rows.json", "--only", "nvidia", *peer)
    assert code == 1
    assert [row["ok"] for row in rows] == [False, False]
    assert all("has no mem_transformer.py" in row["value"] for row in rows)
