"""A command that a person types starts from the tree alone, with no paths set."""

import os
import subprocess
import sys

import pytest
from training import ROOT

COMMANDS = ("soaks/claims", "benchmarks/golden", "benchmarks/compare", "benchmarks/card")


@pytest.mark.parametrize("name", COMMANDS)
def test_it_says_its_help(name: str) -> None:
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, f"tests/{name}.py", "--help"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")
