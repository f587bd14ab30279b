"""A run's checkpoints are listed, verified and pruned by command, and none that counts is lost."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from saved_checkpoints import alter_train_state, contents, flip_a_bit, save

from trainer.checkpoint.pointers import point
from trainer.commands.command_line import parse_command
from trainer.errors import InputError
from trainer.training.opening.claim import Claim


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run with checkpoints of steps 1 to 5, of which the second is the best."""
    folder = tmp_path / "saved" / "checkpoints"
    for step in range(1, 6):
        save(folder, step)
    point(folder, "best", "step-00000002")
    return tmp_path / "saved"


def told(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    parse_command(["checkpoint", *map(str, argv)]).run()
    return capsys.readouterr().out


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def test_each_checkpoint_is_listed_with_what_it_is_for(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(told(capsys, "list", run, "--json"))
    assert [one["step"] for one in found] == [5, 4, 3, 2, 1]
    assert [one["of"] for one in found] == [["latest"], ["kept"], ["kept"], ["best"], ["kept"]]
    assert all(one["problem"] is None for one in found)
    for one in found:
        files = list((run / "checkpoints" / one["name"]).iterdir())
        assert one["bytes"] == sum(file.stat().st_size for file in files)
        assert one["saved"] == pytest.approx(os.stat(files[0]).st_mtime, abs=60)
    assert "step-00000002" in told(capsys, "list", run)


def test_what_is_broken_is_told_with_the_reason(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / "checkpoints"
    flip_a_bit(folder / "step-00000001" / "weights-00000.safetensors")
    (folder / "step-00000003" / "optimizer-00000.safetensors").unlink()
    (folder / "step-00000004" / "index.json").write_text("{}")
    listed = {
        one["step"]: one["problem"] for one in json.loads(told(capsys, "list", run, "--json"))
    }
    assert listed[5] is listed[2] is listed[1] is None  # a flipped bit changes no size
    assert "optimizer-00000.safetensors" in listed[3]
    assert "another size" in listed[4]
    assert "broken: " in told(capsys, "list", run)
    with pytest.raises(InputError, match="3 of 5 checkpoints not whole"):
        parse_command(["checkpoint", "verify", str(run), "--json"]).run()
    verified = {one["step"]: one["problem"] for one in json.loads(capsys.readouterr().out)}
    assert verified[5] is verified[2] is None
    assert "corrupt" in verified[1]
    assert "is missing" in verified[3]


def test_one_checkpoint_is_verified_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip_a_bit(run / "checkpoints" / "step-00000001" / "memory-00000.safetensors")
    for name in ("best", "last", "4"):
        assert told(capsys, "verify", run, "--checkpoint", name).endswith(" whole\n")
    with pytest.raises(InputError, match="1 of 1 checkpoint not whole"):
        told(capsys, "verify", run, "--checkpoint", "1")


def test_pruning_keeps_the_newest_whole_ones_and_what_pointers_name(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_a_bit(run / "checkpoints" / "step-00000004" / "manifest.json")
    before = contents(run)
    assert "step-00000001" in told(capsys, "prune", run, "--keep", 2, "--dry-run")
    assert contents(run) == before
    gone = json.loads(told(capsys, "prune", run, "--keep", 2, "--json"))
    assert [one["step"] for one in gone] == [1]
    assert names(run) == [f"step-0000000{step}" for step in (2, 3, 4, 5)]
    told(capsys, "prune", run, "--keep", 1)
    assert names(run) == ["step-00000002", "step-00000005"]
    point(run / "checkpoints", "latest", "step-00000002")  # of a run that was rolled back by hand
    told(capsys, "prune", run, "--keep", 1)
    assert names(run) == ["step-00000002", "step-00000005"]
    assert not (run / "claim").exists()


def test_what_the_newest_calls_the_best_stays_though_no_pointer_names_it_yet(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alter_train_state(run, best_step=3, best_loss=1.5)
    told(capsys, "prune", run, "--keep", 1)
    assert names(run) == ["step-00000002", "step-00000003", "step-00000005"]


def test_a_run_in_training_is_not_pruned(
    run: Path, run_dir: Path, claim_of: Callable[..., Claim], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run / "checkpoints", run_dir / "checkpoints")
    claim_of()
    before = contents(run_dir)
    for flags in ([], ["--dry-run"]):
        with pytest.raises(InputError, match="is being trained by process"):
            told(capsys, "prune", run_dir, "--keep", 1, *flags)
    assert contents(run_dir) == before


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["list", "nowhere"], "no such folder"),
        (["verify", "."], "no checkpoint"),
        (["prune", ".", "--keep", "0"], "keep one"),
        (["prune", "nowhere", "--keep", "1"], "no such folder"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(
    words: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=problem):
        parse_command(["checkpoint", *words]).run()
    assert list(tmp_path.iterdir()) == []
