"""Asks peer implementations, which `tests/peer.sh` installs into folders of their own."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from training import ROOT, environment

#: Hugging Face's transformers 4.35.2, the last release line with TransfoXL, and omegaconf.
PEER = ROOT / ".peer"
#: Hugging Face's transformers of today.
TODAY = ROOT / ".transformers"


def needs_peer(folder: Path = PEER) -> list[pytest.MarkDecorator]:
    """The marks of a test module that asks the peer in a folder."""
    absent = not (folder / "transformers").is_dir()
    return [
        pytest.mark.peer,
        pytest.mark.skipif(absent, reason=f"{folder} is absent: bash tests/peer.sh makes it"),
    ]


def ask_today(folder: Path, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers of `transformers_worker` to `tasks`, all in one process that lacks this project.

    Without `site` a process sees the packages of the environment, but not what is linked into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tasks.json"
    file.write_text(json.dumps(tasks))
    paths = f"{TODAY}:{sysconfig.get_paths()['purelib']}"
    own = {"PYTHONPATH": paths, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            ROOT / "tests" / "support" / "peers" / "transformers_worker.py",
            file,
        ],
        env={**environment(), **own},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads((folder / "answers.json").read_text())
    return answers


def ask(folder: Path, tasks: list[dict[str, Any]]) -> None:
    """Have `peer_worker` do `tasks`, all in one process; every task names its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tasks.json"
    file.write_text(json.dumps(tasks))
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "support" / "peers" / "peer_worker.py", file],
        env={**environment(), "PYTHONPATH": str(PEER)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
