"""Runs are found wherever they lie below a folder, and each once."""

import shutil
from pathlib import Path

import pytest
from reported_runs import make_imported, make_run, read
from txl_command import exit_code

from trainer.errors import Exit, InputError
from trainer.report.folders import run_dirs
from trainer.report.table import report


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    (folder / "sweep" / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    make_run(folder / "b")
    make_run(folder / "sweep" / "deep" / "a")
    make_run(folder / ".hidden" / "run")
    make_imported(folder / "imported")
    make_run(folder / "b" / "checkpoints")  # what lies inside a run is the run's
    (folder / "broken").mkdir()
    (folder / "broken" / "status.json").write_text('{"state"')
    (folder / "notes").mkdir()
    return folder


def test_all_runs_below_a_folder_are_found_imported_and_broken_ones_too(runs: Path) -> None:
    found = [str(path.relative_to(runs)) for path in run_dirs([runs])]
    assert found == ["b", "broken", "imported", "sweep/deep/a"]
    text, n_shown = report(read(run_dirs([runs])))
    assert n_shown == 3
    assert "broken: " in text.split("not shown: 1 folder")[1]
    assert "status.json is not a status" in text


def test_a_run_is_found_once_however_it_is_reached(runs: Path) -> None:
    (runs / "sweep" / "back").symlink_to(runs)
    (runs / "link").symlink_to(runs / "b")
    assert len(run_dirs([runs, runs / "b", runs / "sweep"])) == 4
    assert run_dirs([runs / "link"]) == [runs / "link"]


def test_a_folder_without_runs_is_named_itself(runs: Path) -> None:
    assert run_dirs([runs / "notes", runs / "none"]) == [runs / "notes", runs / "none"]


def test_without_names_the_folder_of_runs_is_meant(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(runs.parent)
    assert exit_code(monkeypatch, "report") == Exit.DONE
    assert "\nb " in capsys.readouterr().out
    shutil.rmtree(runs)
    with pytest.raises(InputError, match="runs: no such folder: name runs"):
        run_dirs([])


def test_reading_changes_nothing(runs: Path) -> None:
    def state() -> dict[Path, tuple[int, bytes]]:
        files = (path for path in runs.rglob("*") if path.is_file())
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    report(read(run_dirs([runs])))
    assert state() == before
