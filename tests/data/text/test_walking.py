"""Folders are walked through their links: every file once, and never in circles."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainer.data.text.finding import find_files
from trainer.data.text.source import Reading
from trainer.data.text.walking import walk
from trainer.errors import InputError


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_files_below_linked_folders_are_found_and_links_that_lead_out_are_named(
    tmp_path: Path,
) -> None:
    make(tmp_path, "f/a.txt", "f/b/c.txt", "other/d.txt", "other/e/f.txt", "lone.txt")
    (tmp_path / "f/linked").symlink_to("../other")
    (tmp_path / "f/b/file").symlink_to(tmp_path / "lone.txt")
    found = walk(tmp_path / "f")
    assert sorted(found.files) == [
        "a.txt",
        "b/c.txt",
        "b/file",
        "linked/d.txt",
        "linked/e/f.txt",
    ]
    assert found.outside == {
        "linked": str(tmp_path / "other"),
        "b/file": str(tmp_path / "lone.txt"),
    }


def test_circles_end_and_no_file_is_found_twice(tmp_path: Path) -> None:
    make(tmp_path, "f/a.txt", "f/b/c.txt", "f/b/d/e.txt")
    for name, target in {
        "self": ".",
        "b/up": "..",
        "b/d/far": "../../b",
        "twin.txt": "a.txt",
        "0": "b/c.txt",
        "out": "..",
        "back": "../f/b",
        "round": "round",
        "one": "two",
        "two": "one",
    }.items():
        (tmp_path / "f" / name).symlink_to(target)
    found = walk(tmp_path / "f")
    assert sorted(found.files) == ["a.txt", "b/c.txt", "b/d/e.txt"]
    assert found.outside == {"out": str(tmp_path)}
    assert sorted(found.broken) == ["one", "round", "two"]
    again = {"self", "b/up", "b/d/far", "twin.txt", "0", "back", "out/f"}
    assert set(found.again) == again


def test_links_to_links_and_many_ways_to_one_folder_are_one(tmp_path: Path) -> None:
    for i in range(30):  # 2 ** 30 ways, for who goes them all
        make(tmp_path, f"n{i}/x{i}.txt")
        for name in ("l", "r"):
            (tmp_path / f"n{i}" / name).symlink_to(f"../n{i + 1}")
    make(tmp_path, "n30/end.txt")
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "way").symlink_to("../n0")
    found = walk(tmp_path / "top")
    assert sorted(Path(name).name for name in found.files) == sorted(
        ["end.txt", *(f"x{i}.txt" for i in range(30))]
    )
    assert len(found.again) == 30


def test_broken_links_pipes_sockets_and_hidden_things_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.txt", ".hidden.txt", ".git/objects/x.txt", "b/.cache/y.txt")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "device.txt").symlink_to("/dev/null")
    monkeypatch.chdir(tmp_path)  # a socket's path has to be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.txt")
        found = walk(tmp_path)
    assert found.files == ["a.txt"]
    assert found.broken == {"gone.txt": "nowhere"}
    assert sorted(found.special) == ["device.txt", "pipe.txt", "socket.txt"]
    assert sorted(found.hidden) == [".git", ".hidden.txt", "b/.cache"]


@contextmanager
def without_rights() -> Iterator[None]:
    """Run as somebody whom permissions hold, which they do not hold root."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_what_cannot_be_read_is_refused_by_name() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)  # not below one that is for its owner alone
        folder.chmod(0o755)
        make(folder, "a.txt", "secret/b.txt")
        (folder / "secret").chmod(0)
        with (
            without_rights(),
            pytest.raises(InputError, match="secret: cannot be read: Permission denied"),
        ):
            walk(folder)
        (folder / "secret").chmod(0o755)
        (folder / "a.txt").chmod(0)
        with (
            without_rights(),
            pytest.raises(InputError, match=r"a\.txt: cannot be read: Permission denied"),
        ):
            find_files(folder, Reading())
