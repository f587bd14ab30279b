"""Checkpoints on disk are found by name, believed only when whole, and pruned with care."""

import errno
import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_machine import refusing
from pointer_faults import FAULTS
from saved_checkpoints import LISTED, flip_a_bit, save

from trainer.checkpoint import folder as files
from trainer.checkpoint import pointers
from trainer.checkpoint.hashing import fingerprint
from trainer.errors import InputError


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def say_format(version: int) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        values = json.loads(file.read_text())
        file.write_text(json.dumps(values | {"format": version}))

    return change


def plant(file: Path) -> None:
    file.write_bytes(pickle.dumps({"weights": 1}))


CORRUPTIONS: list[tuple[str, Callable[[Path], None], str]] = [
    *((name, flip_a_bit, "corrupt") for name in LISTED),
    *((name, truncate, "corrupt") for name in [*LISTED, "manifest.json"]),
    *((name, Path.unlink, "missing") for name in [*LISTED, "manifest.json"]),
    ("manifest.json", say_format(4), "format 4, newer than the 3 .* update"),
    ("manifest.json", say_format(0), "corrupt"),
    ("optimizer-00001.pt", plant, "not in the manifest"),
    ("weights-00001.safetensors", plant, "not in the manifest"),
]


@pytest.mark.parametrize(
    ("name", "corrupt", "told"),
    CORRUPTIONS,
    ids=[f"{name}: {told.split()[0]}" for name, _, told in CORRUPTIONS],
)
def test_corruption_is_refused_by_name_and_the_one_before_is_found(
    tmp_path: Path, name: str, corrupt: Callable[[Path], None], told: str
) -> None:
    older, newer = save(tmp_path, 1), save(tmp_path, 2)
    corrupt(newer / name)
    with pytest.raises(InputError, match=f"{newer}.*{name}.*{told}") as refusal:
        files.verify(newer)
    assert "\n" not in str(refusal.value)
    found = files.newest_whole(tmp_path)
    assert found.path == older
    assert found.state == files.verify(older)
    assert found.skipped == [str(refusal.value)]


@pytest.mark.parametrize("name", [*LISTED, "manifest.json"])
def test_no_flipped_bit_goes_unnoticed(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    whole, draws = (path / name).read_bytes(), random.Random(0)
    for _ in range(150):
        flipped = bytearray(whole)
        flipped[draws.randrange(len(whole))] ^= 1 << draws.randrange(8)
        (path / name).write_bytes(flipped)
        with pytest.raises(InputError, match=str(path)):
            files.verify(path)


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    path = save(tmp_path / "run", 1)
    manifest = path / "manifest.json"
    values = json.loads(manifest.read_text())
    (tmp_path / "outside").write_text("")
    values["files"]["../../outside"] = fingerprint(tmp_path / "outside")
    manifest.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"manifest\.json is corrupt"):
        files.verify(path)


@pytest.mark.parametrize("kind", ["a file", "nothing", "another folder"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "step-00000001"
    if kind == "a file":
        path.write_text("")
    elif kind == "another folder":
        path.mkdir()
        (path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=f"{path}: no checkpoint here"):
        files.verify(path)


def test_pruning_keeps_the_newest_the_best_and_what_is_not_its_own(tmp_path: Path) -> None:
    for step in range(1, 7):
        save(tmp_path, step)
    shutil.copytree(tmp_path / "step-00000002", tmp_path / "step-00000002-copy")
    pointers.point(tmp_path, "best", "step-00000003")
    files.prune(tmp_path, keep_last=2)
    kept = {path.name for path in tmp_path.glob("step-*")}
    assert kept == {"step-00000003", "step-00000005", "step-00000006", "step-00000002-copy"}
    pointers.point(tmp_path, "latest", "step-00000005")
    files.prune(tmp_path, keep_last=1)
    kept = {path.name for path in tmp_path.glob("step-????????")}
    assert kept == {"step-00000003", "step-00000005", "step-00000006"}


def test_checkpoints_are_named_by_best_last_step_and_path(tmp_path: Path) -> None:
    folder = files.directory(tmp_path)
    paths = {step: save(folder, step) for step in (5, 10, 15)}
    assert files.resolve(tmp_path, "best") == paths[15]  # a run that never validated has none
    pointers.point(folder, "best", "step-00000005")
    assert files.resolve(tmp_path, "best") == paths[5]
    assert files.resolve(tmp_path, "last") == paths[15]
    assert files.resolve(tmp_path, "10") == paths[10]
    assert files.resolve(tmp_path / "elsewhere", str(paths[10])) == paths[10]
    with pytest.raises(InputError, match="no checkpoint '11'; there are: step-00000015, step-0"):
        files.resolve(tmp_path, "11")
    with pytest.raises(InputError, match="no checkpoint 'best'; there are: none"):
        files.resolve(tmp_path / "elsewhere", "best")


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
        files.prune(folder, keep_last=2)
    assert {name for name in everything(folder) if name.startswith("step-")} == {
        "step-00000003",
        "step-00000004",
    }
    assert files.newest_whole(folder).path == folder / "step-00000004"
    for which in ("best", "last"):
        assert files.resolve(tmp_path, which) == folder / "step-00000004"


def test_a_pointer_leads_nowhere_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, other = files.directory(tmp_path / "run"), files.directory(tmp_path / "other")
    save(folder, 1)
    elsewhere = save(other, 2)
    for target in (str(elsewhere), "../../other/checkpoints/step-00000002", "/etc/passwd"):
        for name in ("best", "latest"):
            (folder / name).write_text(target + "\n")
        assert files.resolve(tmp_path / "run", "best") == folder / "step-00000001"
    (folder / "best").unlink()
    assert files.resolve(tmp_path / "run", "best") == folder / "step-00000001"
    told = f"{folder}/best names no checkpoint here: taking the last one"
    assert [record.message for record in caplog.records] == [told] * 3


def test_the_last_is_the_newest_where_the_pointer_names_one_that_is_gone(tmp_path: Path) -> None:
    folder = files.directory(tmp_path)
    older = save(folder, 1)
    shutil.rmtree(save(folder, 2))
    assert files.resolve(tmp_path, "last") == older
    pointers.point(folder, "best", "step-00000002")
    with pytest.raises(InputError, match="no checkpoint 'best'; there are: step-00000001"):
        files.resolve(tmp_path, "best")


def test_a_pointer_that_cannot_be_moved_names_no_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = files.directory(tmp_path)
    save(folder, 1)
    monkeypatch.setattr(files, "point", refusing(errno.EDQUOT))
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
    files.prune(folder, keep_last=1)
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
        files.prune(folder, keep_last=1)
    assert everything(tmp_path / "scratch") == {"step-00000003", "latest"}
    assert files.verify(files.resolve(tmp_path / "run", "last"))["train"] == {"step": 3}


@pytest.mark.parametrize("name", [*LISTED, "manifest.json"])
def test_no_file_of_a_checkpoint_is_a_link(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    (path / name).rename(tmp_path / name)
    (path / name).symlink_to(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is a link to"):
        files.verify(path)


def test_a_checkpoint_under_another_s_name_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2).rename(tmp_path / "step-00000007")
    with pytest.raises(InputError, match="step-00000007 is the checkpoint of step 2"):
        files.verify(tmp_path / "step-00000007")
    assert files.newest_whole(tmp_path).path == tmp_path / "step-00000001"
    copy = (tmp_path / "step-00000001").rename(tmp_path / "the good one")
    assert files.verify(copy)["train"] == {"step": 1}


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
    files.prune(tmp_path, keep_last=2)
    assert everything(tmp_path) == {"step-00000003", "step-00000004", "step-99999999"}


def test_steps_are_counted_not_spelt(tmp_path: Path) -> None:
    for step in (99_999_998, 99_999_999, 100_000_000, 100_000_001):
        save(tmp_path, step)
    files.prune(tmp_path, keep_last=2)
    assert everything(tmp_path) == {"step-100000000", "step-100000001", "latest"}
    found = files.newest_whole(tmp_path, before_step=100_000_001)
    assert found.path == tmp_path / "step-100000000"


def test_the_best_is_spared_though_its_pointer_was_not_moved(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    files.prune(tmp_path, keep_last=1, spared=["step-00000001"])
    assert everything(tmp_path) == {"step-00000001", "step-00000003", "latest"}


def test_many_that_are_broken_are_told_in_a_line_that_can_be_read(tmp_path: Path) -> None:
    folder = files.directory(tmp_path)
    for step in range(400):
        (folder / pointers.name_of(step)).mkdir(parents=True)
    with pytest.raises(InputError, match="and 395 more") as refusal:
        files.resolve(tmp_path, "12345")
    assert len(str(refusal.value)) < 1000
