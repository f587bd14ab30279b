"""A run to a target goes on over calls of some minutes, and ends when the target is met."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_text import made_text
from training import ROOT, TINY, environment, events

from trainer import read_metrics

SCRIPT = ROOT / "tests" / "benchmarks" / "to_target.py"
#: It learns slowly: a run that is stopped some steps late is not yet at the next target.
CHANGES = {"valid.interval-steps": "5", "train.max-steps": "100000", "optim.lr": "3e-4"}
TOY = [*TINY, "--model.cutoffs", *(x for k, v in CHANGES.items() for x in (f"--{k}", v))]

Call = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Return a function that calls the script: its exit code, the summary, and what it printed."""
    for split, n_lines in {"train": 2000, "valid": 30, "test": 30}.items():
        (tmp_path / "texts").mkdir(exist_ok=True)
        text = made_text(split, n_lines=n_lines)
        (tmp_path / "texts" / f"{split}.txt").write_text(text, encoding="utf-8")
    run = tmp_path / "run"

    def _call(*flags: str) -> tuple[int, dict[str, Any], str]:
        where = ["--run-dir", run, "--text", tmp_path / "texts", "--prepare=--tokenizer words"]
        command = [sys.executable, SCRIPT, "quickstart", *where, *flags, "--", *TOY]
        done = subprocess.run(
            list(map(str, command)), env=environment(), capture_output=True, text=True, check=False
        )
        summary = run.with_name("run.summary.json")
        assert summary.is_file(), done.stdout + done.stderr
        return done.returncode, json.loads(summary.read_text()), done.stdout

    return _call


def test_calls_go_on_from_checkpoints_until_the_target_is_met(call: Call, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, first, _ = call("--minutes", "5", "--ppl", "700", "--no-evaluation")
    assert code == 0, first
    assert first["best"]["valid_loss"] <= first["target_loss"]
    made = (tmp_path / "run.corpus" / "train.json").stat().st_mtime_ns

    target = first["best"]["valid_loss"] - 0.3
    too_short = ["--minutes", "1", "--reserve-s", "59.5", "--no-evaluation"]
    code, cut, said = call(*too_short, "--loss", str(target))
    assert code == 75, "half a second is less than it takes to start"
    assert cut["step"] == first["step"]
    assert "go on: python" in said

    code, last, said = call("--minutes", "5", "--loss", str(target))
    assert code == 0, last
    assert last["best"]["valid_loss"] <= target
    assert last["calls"] == 3
    assert last["step"] > first["step"]
    assert [event["step"] for event in events(run, "resume")] == [first["step"]] * 2
    steps = [record["step"] for record in read_metrics(run, kind="train")]
    assert steps == list(range(1, last["step"] + 1)), "no step is lost or done twice"
    assert (tmp_path / "run.corpus" / "train.json").stat().st_mtime_ns == made, "it is made once"
    validated = [row["step"] for row in last["curve"]]
    assert validated == list(range(5, validated[-1] + 1, 5))
    assert last["minutes"] > last["curve"][-1]["minutes"] > first["curve"][-1]["minutes"] > 0

    (evaluation,) = last["evaluations"]
    assert evaluation["split"] == "test"
    assert f"| {evaluation['loss']:,.4f} |" in said
    carried = {Path(one["path"]).name: one for one in last["to_carry"]}
    kept = [name for name in carried if name.startswith("step-")]
    assert f"step-{last['step']:08d}" in kept
    assert len(kept) <= 2, "the newest and the best"
    assert carried["run"]["mib"] > sum(carried[name]["mib"] for name in kept) > 0


def test_what_cannot_be_used_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    def told(*flags: str) -> str:
        command = [sys.executable, SCRIPT, "quickstart", "--run-dir", tmp_path / "run", *flags]
        done = subprocess.run(
            list(map(str, command)), env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode in (1, 2)
        assert list(tmp_path.iterdir()) == []
        return done.stderr

    assert "is not there: name a file or a folder" in told("--minutes", "2", "--text", "/no/text")
    assert "are no more than --reserve-s" in told("--minutes", "1")
