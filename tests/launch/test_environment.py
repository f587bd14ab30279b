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
    with Path("asked.txt").open("a") as asked:
        print(*sys.argv[1:], file=asked)
    script = Path(sys.executable).with_name("tool")
    script.write_text(f"#!{sys.executable}\\nimport sys\\nprint(sys.argv[1:])\\n")
    script.chmod(0o755)
print("pip 1.0 from", __file__)
"""


#: Where a shell would look for `launch` elsewhere, and Python for the checkout's own sources.
WITHOUT = environment(CDPATH="/")
WITHOUT.pop("PYTHONPATH")


@pytest.fixture(params=["checkout", "my own checkout", "it's $HOME; & more"])
def checkout(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return what launch/environment.sh needs of a checkout, with an environment that it began."""
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


def make(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "launch/environment.sh"],
        cwd=checkout,
        env=WITHOUT | variables,
        text=True,
        capture_output=True,
        check=False,
    )


def test_scripts_that_packages_bring_start_there(checkout: Path) -> None:
    made = make(checkout)
    assert made.returncode == 0, made.stderr
    said = subprocess.check_output(
        [str(checkout / ".venv" / "bin" / "tool"), "a b", "--c"], env=WITHOUT, text=True
    )
    assert said == "['a b', '--c']\n"


@pytest.mark.parametrize("checkout", ["checkout"], indirect=True)
@pytest.mark.parametrize(("device", "asks_for_cpu"), [("cpu", True), ("cuda", False)])
def test_pytorch_is_for_the_device_that_is_told(
    checkout: Path, device: str, asks_for_cpu: bool
) -> None:
    assert make(checkout, DEVICE=device).returncode == 0
    asked = (checkout / "asked.txt").read_text()
    assert ("whl/cpu" in asked) is asks_for_cpu


@pytest.mark.parametrize("checkout", ["checkout"], indirect=True)
def test_a_device_that_there_is_none_of_is_refused_and_nothing_is_installed(checkout: Path) -> None:
    made = make(checkout, DEVICE="tpu")
    assert made.returncode == 2
    assert made.stderr == "error: DEVICE is tpu: say cpu or cuda, or leave it out\n"
    assert not (checkout / "asked.txt").exists()


def test_the_container_is_made_of_files_that_are_there() -> None:
    """Return what a build copies and runs, and what it leaves out of the checkout's folder."""
    dockerfile = (ROOT / "launch/Dockerfile").read_text()
    assert "bash launch/environment.sh" in dockerfile
    left_out = (ROOT / "launch/Dockerfile.dockerignore").read_text().split()
    kept = {"launch", "trainer", "ds_configs", "pyproject.toml", "constraints.txt", "README.md"}
    assert not kept & set(left_out)
    assert {".venv", ".git", "runs", "corpora"} <= set(left_out)
