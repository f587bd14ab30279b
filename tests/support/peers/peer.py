"""Asks peer implementations, which `tests/peer.sh` installs into folders of their own."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from training import ROOT, environment

#: Hugging Face's transformers 4.35.2, the last release line with TransfoXL, and omegaconf.
PEER = ROOT / ".peer"
#: EleutherAI's lm-evaluation-harness.
LM_EVAL = ROOT / ".lm-eval"
TRACKIO = ROOT / ".trackio"


def needs_peer(folder: Path = PEER, package: str = "transformers") -> list[pytest.MarkDecorator]:
    """Return the marks of a test module that asks the peer in a folder."""
    absent = not (folder / package).is_dir()
    return [
        pytest.mark.peer,
        pytest.mark.skipif(absent, reason=f"{folder} is absent: bash tests/peer.sh makes it"),
    ]


def ask_today(folder: Path, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what `transformers_worker` answers to `tasks`, in one process that lacks this project.

    Its transformers are those of today, which the tests' environment has.

    Without `site` a process sees the packages of the environment, but not what is linked into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tasks.json"
    file.write_text(json.dumps(tasks))
    own = {
        "PYTHONPATH": sysconfig.get_paths()["purelib"],
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
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


def ask_lm_eval(folder: Path, commands: list[list[str]]) -> list[dict[str, Any]]:
    """Return what lm-eval files of each command, all in one process, with all samples."""
    words, outs = folder / "commands.json", [folder / f"out-{i}" for i in range(len(commands))]
    filed = [
        [*command, "--output_path", str(out), "--log_samples"]
        for command, out in zip(commands, outs, strict=True)
    ]
    words.write_text(json.dumps(filed))
    caches = {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    paths = os.pathsep.join(map(str, (ROOT, LM_EVAL)))
    worker = ROOT / "tests" / "support" / "peers" / "lm_eval_worker.py"
    done = subprocess.run(
        [sys.executable, worker, words],
        env={**environment(), "PYTHONPATH": paths, **caches},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [_filed(out) for out in outs]


def _filed(out: Path) -> dict[str, Any]:
    """Return results by task, and the answers of each task in the order of its documents."""
    (results,) = out.rglob("results_*.json")
    samples: dict[str, list[Any]] = {}
    for file in out.rglob("samples_*.jsonl"):
        task = file.name.removeprefix("samples_").rpartition("_")[0]
        rows = map(json.loads, file.read_text().splitlines())
        samples[task] = [row["resps"] for row in sorted(rows, key=lambda row: row["doc_id"])]
    return {"results": json.loads(results.read_text())["results"], "samples": samples}


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
