"""Checkpoints on disk are found by name, believed only when whole, and pruned with care."""

import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from saved_checkpoints import TENSOR_FILES, flip_a_bit, save

from trainer import checkpoint_files as files
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
    *((name, flip_a_bit, "corrupt") for name in [*TENSOR_FILES, "state.json"]),
    *((name, truncate, "corrupt") for name in [*TENSOR_FILES, "state.json", "manifest.json"]),
    *((name, Path.unlink, "missing") for name in [*TENSOR_FILES, "state.json", "manifest.json"]),
    ("manifest.json", say_format(2), "format 2, newer than the 1 .* update"),
    ("manifest.json", say_format(0), "corrupt"),
    ("optimizer-00001.pt", plant, "not in the manifest"),
    ("weights-00001.safetensors", plant, "not in the manifest"),
]


@pytest.mark.parametrize(
    ("name", "corrupt", "told"), CORRUPTIONS,
    ids=[f"{name}: {told.split()[0]}" for name, _, told in CORRUPTIONS],
)  # fmt: skip
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


@pytest.mark.parametrize("name", [*TENSOR_FILES, "state.json", "manifest.json"])
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
    values["files"]["../../outside"] = files.fingerprint(tmp_path / "outside")
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
    files.point(tmp_path, "best", "step-00000003")
    files.prune(tmp_path, keep_last=2)
    kept = {path.name for path in tmp_path.glob("step-*")}
    assert kept == {"step-00000003", "step-00000005", "step-00000006", "step-00000002-copy"}
    files.point(tmp_path, "latest", "step-00000005")
    files.prune(tmp_path, keep_last=1)
    kept = {path.name for path in tmp_path.glob("step-????????")}
    assert kept == {"step-00000003", "step-00000005", "step-00000006"}


def test_checkpoints_are_named_by_best_last_step_and_path(tmp_path: Path) -> None:
    folder = files.directory(tmp_path)
    paths = {step: save(folder, step) for step in (5, 10, 15)}
    assert files.resolve(tmp_path, "best") == paths[15]  # a run that never validated has none
    files.point(folder, "best", "step-00000005")
    assert files.resolve(tmp_path, "best") == paths[5]
    assert files.resolve(tmp_path, "last") == paths[15]
    assert files.resolve(tmp_path, "10") == paths[10]
    assert files.resolve(tmp_path / "elsewhere", str(paths[10])) == paths[10]
    with pytest.raises(InputError, match="no checkpoint '11'; there are: step-00000015, step-0"):
        files.resolve(tmp_path, "11")
    with pytest.raises(InputError, match="no checkpoint 'best'; there are: none"):
        files.resolve(tmp_path / "elsewhere", "best")
