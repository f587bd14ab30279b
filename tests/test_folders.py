"""A new folder is there whole or not at all, and nobody else's is touched."""

import os
from pathlib import Path

import pytest
import torch

from trainer.checkpoint.tensor_files import save_tensors
from trainer.errors import InputError
from trainer.files import new_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_there_when_all_is_written_with_a_users_permissions(tmp_path: Path) -> None:
    (tmp_path / "out.tmp").mkdir()
    (tmp_path / "plain").touch()
    with new_folder(tmp_path / "out") as draft:
        save_tensors({"a": torch.zeros(2)}, draft / "a")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out", "out.tmp", "plain"]
    wanted = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "out" / "a").stat().st_mode == wanted
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "out.tmp").stat().st_mode


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "deep" / "out"):
        _ = 1 / 0
    assert names(tmp_path / "deep") == []
    with (
        pytest.raises(InputError, match="cannot be written"),
        new_folder(tmp_path / "out") as draft,
    ):
        (draft / "missing" / "file").touch()
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_filled_and_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    with new_folder(Path(".")) as draft:
        (draft / "a").touch()
    os.chdir(tmp_path)
    assert names(tmp_path / "out") == ["a"]
    for path in (tmp_path / "out", tmp_path / "out" / "a"):
        with pytest.raises(InputError, match="exists: give another"), new_folder(path):
            pass
