"""A command that a person types starts from the tree alone, with no paths set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from training import ROOT

FOLDERS = [ROOT / "tests" / room for room in ("soak", "benchmarks", "mutation", "supply")]
COMMANDS = [
    path.relative_to(ROOT)
    for folder in FOLDERS
    for path in sorted(folder.glob("*.py"))
    if "ArgumentParser" in path.read_text() and not path.name.startswith("test_")
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda path: path.stem)
def test_it_says_its_help(command: Path) -> None:
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(command), "--help"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout  # DeepSpeed may warn before
