"""A new folder is there whole or not at all, and nobody else's is touched."""

import os
import shutil
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from file_changes import PIECE, at_call, before_each_change, killed_before_change, stages
from odd_machine import ODDITIES, put_on

from trainer import files
from trainer.checkpoint.contents.tensor_files import save_tensors
from trainer.errors import InputError
from trainer.files import new_folder

PARTS = ("a", "b", "inner/c")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def allow(folder: Path) -> None:
    """Let anything be replaced."""


def write(path: Path, text: str) -> Path:
    """Make or replace a folder, between whose files something may happen."""
    with new_folder(path, refuse=allow, scratch=["scratch"]) as folder:
        (folder / "inner").mkdir()
        for part in ("scratch", *PARTS):
            sys.audit(PIECE)
            (folder / part).write_text(text)
    return path


def read(path: Path) -> str | None:
    """Return the text of a folder that is whole; None where there is none."""
    if not path.exists():
        return None
    found = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert found - {files.LOCK} == set(PARTS)
    (text,) = {(path / part).read_text() for part in PARTS}
    return text


def test_it_is_there_when_all_is_written_with_a_users_permissions(tmp_path: Path) -> None:
    (tmp_path / "out.tmp").mkdir()
    (tmp_path / "plain").touch()
    with new_folder(tmp_path / "out") as draft:
        save_tensors({"a": torch.zeros(2)}, draft / "a")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out", "out.tmp", "plain"]
    assert names(tmp_path / "out") == ["a"]
    wanted = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "out" / "a").stat().st_mode == wanted
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "out.tmp").stat().st_mode


def test_all_of_it_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, out, fsync = list[tuple[int, bool]](), tmp_path / "out", os.fsync

    def note(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, out.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write(out, "new")
    for part in (out, *out.rglob("*")):
        assert (part.stat().st_ino, False) in synced
    assert synced[-1] == (tmp_path.stat().st_ino, True)


def test_it_may_be_made_in_folders_that_are_not_there_and_an_error_leaves_it_out(
    tmp_path: Path,
) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "deep" / "out"):
        _ = 1 / 0
    assert names(tmp_path / "deep") == []


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


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists: give another"), new_folder(tmp_path / "out"):
        write(tmp_path / "theirs", "theirs").rename(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert read(tmp_path / "out") == "theirs"


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as mine:
        (mine / "a").touch()
        with pytest.raises(InputError, match="another process is writing it; wait for it"):
            write(tmp_path / "out", "theirs")
        assert (mine / "a").exists()


@pytest.mark.parametrize("before", [None, "old"], ids=["nothing there", "another there"])
@pytest.mark.parametrize("oddity", [None, "no locks"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None, oddity: str | None
) -> None:
    put_on([oddity] if oddity else [], monkeypatch.setattr)
    out, found = tmp_path / "out", list[str | None]()
    for n in count(1):
        shutil.rmtree(out, ignore_errors=True)
        if before:
            write(out, before)
        killed = killed_before_change(n, lambda: write(out, "new"))
        found.append(read(out))
        if found[-1] is None and before:  # in the instant between two renames
            assert read(tmp_path / f"{files.REPLACED}out") == before
            assert read(tmp_path / f"{files.WRITING}out") == "new"
        write(out, "newer")
        assert read(out) == "newer"
        assert names(tmp_path) == ["out"]
        assert not (out / files.LOCK).exists()
        if not killed:
            break
    assert stages(found) == (["old", None, "new"] if before else [None, "new"])


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_at_any_moment_leaves_the_old_or_the_new(
    tmp_path: Path, error: type[BaseException]
) -> None:
    out, found, failed = tmp_path / "out", list[str | None](), [0]

    def fail() -> None:
        failed.append(n)
        raise error

    for n in count(1):
        write(out, "old")
        try:
            with before_each_change(at_call(n, fail)):
                write(out, "new")
        except error:
            pass
        found.append(read(out))
        assert list(tmp_path.glob(f"{files.WRITING}out/*")) == []
        if found[-1] == "old":
            assert list(tmp_path.glob(f"{files.REPLACED}out")) == []
        if failed[-1] != n:
            break
    assert set(found) == {"old", "new"}
    assert found[-1] == "new"


@pytest.mark.parametrize("oddity", ODDITIES)
def test_a_reader_finds_the_old_or_the_new_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oddity: str
) -> None:
    put_on([oddity], monkeypatch.setattr)
    out, found = tmp_path / "out", list[str | None]()
    for text in ("old", "new"):
        with before_each_change(lambda: found.append(read(out))):
            write(out, text)
        found.append(read(out))
    assert stages(found) == [None, "old", None, "new"]
    assert names(tmp_path) == ["out"]


def to_nothing(path: Path) -> None:
    """Leave nothing in the way."""


def to_a_link(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


def to_a_link_that_leads_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("made", [to_nothing, Path.mkdir, to_a_link, to_a_link_that_leads_nowhere])
def test_a_folder_takes_the_place_of_a_link_and_not_of_what_it_leads_to(
    tmp_path: Path, made: Callable[[Path], None]
) -> None:
    write(tmp_path / "elsewhere", "theirs")
    write(tmp_path / "draft", "new")
    made(tmp_path / "out")
    files.replace(tmp_path / "draft", tmp_path / "out")
    assert read(tmp_path / "out") == "new"
    assert read(tmp_path / "elsewhere") == "theirs"
    assert names(tmp_path) == ["elsewhere", "out"]


def test_a_folder_takes_no_place_of_a_file_and_a_file_none_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "folder", "old")
    (tmp_path / "file").touch()
    for draft, place in (("folder", "file"), ("file", "folder")):
        with pytest.raises(OSError, match="directory"):
            files.replace(tmp_path / draft, tmp_path / place)
    assert names(tmp_path) == ["file", "folder"]
    assert read(tmp_path / "folder") == "old"


def test_a_folder_is_removed_whole_by_one_who_is_killed_at_any_moment(tmp_path: Path) -> None:
    out, found = tmp_path / "out", list[str | None]()
    for n in count(1):
        write(out, "old")
        killed = killed_before_change(n, lambda: files.remove(out))
        found.append(read(out))
        if not killed:
            break
    assert stages(found) == ["old", None]
    assert names(tmp_path) == []
