"""A checkpoint is sealed whole, and only what is old and our own is deleted."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_machine import refusing
from pointer_faults import FAULTS
from saved_checkpoints import save, truncate

from trainer.checkpoint import folder as files
from trainer.checkpoint import pointers, sealing
from trainer.errors import InputError


def test_pruning_keeps_the_newest_the_best_and_what_is_not_its_own(tmp_path: Path) -> None:
    for step in range(1, 7):
        save(tmp_path, step)
    shutil.copytree(tmp_path / "step-00000002", tmp_path / "step-00000002-copy")
    pointers.point(tmp_path, "best", "step-00000003")
    sealing.prune(tmp_path, keep_last=2)
    kept = {path.name for path in tmp_path.glob("step-*")}
    assert kept == {"step-00000003", "step-00000005", "step-00000006", "step-00000002-copy"}
    pointers.point(tmp_path, "latest", "step-00000005")
    sealing.prune(tmp_path, keep_last=1)
    kept = {path.name for path in tmp_path.glob("step-????????")}
    assert kept == {"step-00000003", "step-00000005", "step-00000006"}


def everything(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["best", "latest"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_pointer_stops_no_save_and_no_pruning(
    tmp_path: Path, fault: Callable[[Path], None], name: str
) -> None:
    folder = files.directory(tmp_path)
    save(folder, 1)
    (folder / "latest").unlink()
    fault(folder / name)
    for step in (2, 3, 4):
        save(folder, step)
        sealing.prune(folder, keep_last=2)
    assert {name for name in everything(folder) if name.startswith("step-")} == {
        "step-00000003",
        "step-00000004",
    }
    assert files.newest_whole(folder).path == folder / "step-00000004"
    for which in ("best", "last"):
        assert files.resolve(tmp_path, which) == folder / "step-00000004"


def test_a_pointer_that_cannot_be_moved_names_no_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = files.directory(tmp_path)
    save(folder, 1)
    monkeypatch.setattr(sealing, "point", refusing(errno.EDQUOT))
    newer = save(folder, 2)
    assert files.resolve(tmp_path, "last") == newer
    assert "the pointer `latest` was not moved: " in caplog.text


def test_a_link_is_no_checkpoint_and_nothing_is_deleted_through_it(tmp_path: Path) -> None:
    folder, other = files.directory(tmp_path / "run"), files.directory(tmp_path / "other")
    own, elsewhere = save(folder, 3), save(other, 2)
    for step in (1, 2, 9):
        (folder / f"step-{step:08d}").symlink_to(elsewhere)
    with pytest.raises(InputError, match=r"step-00000002 is a link to .*other"):
        files.verify(files.resolve(tmp_path / "run", "2"))
    found = files.newest_whole(folder)
    assert found.path == own
    assert len(found.skipped) == 1
    before = everything(folder)
    sealing.prune(folder, keep_last=1)
    assert everything(folder) == before
    assert files.verify(elsewhere)["train"] == {"step": 2}
    saved_over = save(folder, 9)
    assert not saved_over.is_symlink()
    assert files.verify(saved_over)["train"] == {"step": 9}
    assert everything(other) == {"step-00000002", "latest"}


def test_the_folder_itself_may_be_a_link_as_to_a_larger_disk(tmp_path: Path) -> None:
    folder = files.directory(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "scratch").mkdir()
    folder.symlink_to(tmp_path / "scratch")
    for step in (1, 2, 3):
        save(folder, step)
        sealing.prune(folder, keep_last=1)
    assert everything(tmp_path / "scratch") == {"step-00000003", "latest"}
    assert files.verify(files.resolve(tmp_path / "run", "last"))["train"] == {"step": 3}


@pytest.mark.parametrize("kind", ["writing", "replaced", "pruned"])
def test_only_drafts_of_our_form_are_removed(tmp_path: Path, kind: str) -> None:
    others = {f".{kind}-x", f".{kind}-step-1", f".{kind}-notes", f".{kind}-step-00000008"}
    (tmp_path / f".{kind}-x").write_text("a file")
    (tmp_path / f".{kind}-step-1").mkdir()
    (tmp_path / f".{kind}-notes").symlink_to(tmp_path)
    (tmp_path / f".{kind}-step-00000008").symlink_to(tmp_path)
    (tmp_path / f".{kind}-step-00000009").mkdir()
    (tmp_path / f".{kind}-step-00000009" / "weights-00000.safetensors").touch()
    save(tmp_path, 1)
    assert everything(tmp_path) == {*others, "step-00000001", "latest"}


def break_(path: Path, how: str) -> None:
    if how == "empty":
        shutil.rmtree(path)
        path.mkdir()
    elif how == "a file":
        shutil.rmtree(path)
        path.touch()
    elif how == "cut":
        truncate(path / "weights-00000.safetensors")
    else:
        (path / how).unlink()


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "a file",
        "cut",
        "state.json",
        "manifest.json",
        "index.json",
        "memory-00000.safetensors",
    ],
)
def test_what_is_not_whole_takes_no_place_of_what_is(tmp_path: Path, how: str) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    break_(save(tmp_path, 99_999_999), how)
    (tmp_path / "latest").unlink()
    sealing.prune(tmp_path, keep_last=2)
    assert everything(tmp_path) == {"step-00000003", "step-00000004", "step-99999999"}


def test_steps_are_counted_not_spelt(tmp_path: Path) -> None:
    for step in (99_999_998, 99_999_999, 100_000_000, 100_000_001):
        save(tmp_path, step)
    sealing.prune(tmp_path, keep_last=2)
    assert everything(tmp_path) == {"step-100000000", "step-100000001", "latest"}
    found = files.newest_whole(tmp_path, before_step=100_000_001)
    assert found.path == tmp_path / "step-100000000"


def test_the_best_is_spared_though_its_pointer_was_not_moved(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    sealing.prune(tmp_path, keep_last=1, spared=["step-00000001"])
    assert everything(tmp_path) == {"step-00000001", "step-00000003", "latest"}
