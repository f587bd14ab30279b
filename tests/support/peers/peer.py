"""Asks a peer implementation, which `tests/peer.sh` installs into a folder of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training import ROOT, environment

#: Hugging Face's transformers 4.35.2, the last release line with TransfoXL, and omegaconf.
PEER = ROOT / ".peer"


def needs_peer() -> list[pytest.MarkDecorator]:
    """The marks of a test module that asks the peer."""
    absent = not (PEER / "transformers").is_dir()
    return [
        pytest.mark.peer,
        pytest.mark.skipif(absent, reason=f"{PEER} is absent: bash tests/peer.sh makes it"),
    ]


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
