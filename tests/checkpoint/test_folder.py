"""Checkpoints on disk are found by name, and believed only when whole."""

import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from saved_checkpoints import LISTED, flip_a_bit, save, truncate

from trainer.checkpoint import folder as files
from trainer.checkpoint import pointers
from trainer.checkpoint.hashing import fingerprint
from trainer.errors import InputError


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


def test_checkpoints_are_named_by_best_last_step_and_path(tmp_path: Path) -> None:
    folder = files.directory(tmp_path)
    paths = {step: save(folder, step) for step in (5, 10, 15)}
    assert files.resolve(tmp_path, "best") == paths[15]  # a run that never validated has none
    pointers.point(folder, "best", "step-00000005")
    assert files.resolve(tmp_path, "best") == paths[5]
    assert files.resolve(tmp_path, "last") == paths[15]
    assert files.resolve(tmp_path, "10") == paths[10]
    assert files.resolve(tmp_path, "10".zfill(pointers.MAX_DIGITS)) == paths[10]
    assert files.resolve(tmp_path / "elsewhere", str(paths[10])) == paths[10]
    with pytest.raises(InputError, match="no checkpoint '11'; there are: step-00000015, step-0"):
        files.resolve(tmp_path, "11")
    with pytest.raises(InputError, match="no checkpoint 'best'; there are: none"):
        files.resolve(tmp_path / "elsewhere", "best")


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


def test_many_that_are_broken_are_told_in_a_line_that_can_be_read(tmp_path: Path) -> None:
    folder = files.directory(tmp_path)
    for step in range(400):
        (folder / pointers.name_of(step)).mkdir(parents=True)
    with pytest.raises(InputError, match="and 395 more") as refusal:
        files.resolve(tmp_path, "12345")
    assert len(str(refusal.value)) < 1000
