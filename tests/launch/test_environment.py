"""The environment that launch/environment.sh makes works where the checkout lies."""

import subprocess
import sys
from pathlib import Path

import pytest
from training import ROOT, environment

#: Stands for pip, which would need a network: a package's own script gets the interpreter's path.
PIP = """
import sys
from pathlib import Path

if "install" in sys.argv:
    script = Path(sys.executable).with_name("tool")
    script.write_text(f"#!{sys.executable}\\nimport sys\\nprint(sys.argv[1:])\\n")
    script.chmod(0o755)
print("pip 1.0 from", __file__)
"""


@pytest.fixture(params=["checkout", "my own checkout", "it's $HOME; & more"])
def checkout(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What launch/environment.sh needs of a checkout, with an environment that it began."""
    folder = tmp_path / request.param
    for name in ("launch/environment.sh", "pyproject.toml", "constraints.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    venv = [sys.executable, "-m", "venv", "--without-pip", str(folder / ".venv")]
    subprocess.run(venv, check=True)
    (pip,) = (folder / ".venv").glob("lib/python3*/site-packages")
    (pip / "pip").mkdir()
    (pip / "pip" / "__main__.py").write_text(PIP)
    command = folder / ".venv" / "bin" / "pip"
    command.write_text('#!/bin/sh\nexec "$(dirname "$0")/python" -m pip "$@"\n')
    command.chmod(0o755)
    return folder


def test_scripts_that_packages_bring_start_there(checkout: Path) -> None:
    without = environment(CDPATH="/")
    del without["PYTHONPATH"]
    made = subprocess.run(
        ["bash", "launch/environment.sh"],
        cwd=checkout,
        env=without,
        text=True,
        capture_output=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    said = subprocess.check_output(
        [str(checkout / ".venv" / "bin" / "tool"), "a b", "--c"], env=without, text=True
    )
    assert said == "['a b', '--c']\n"
