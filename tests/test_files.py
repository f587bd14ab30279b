"""Files are whole or not at all, also where a file system can do less than others."""

import errno
import os
import stat
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from file_changes import PIECE, at_call, before_each_change, killed_before_change, stages
from odd_machine import ODDITIES, put_on, refusing
from training import environment

from trainer import files

OLD, NEW = "old\n" * 9999, "new\n" * 9999
HOW = [{}, {"alone": True}, {"synced": False}]


def write(path: Path, text: str, **how: Any) -> None:
    """Replace a file in two pieces, between which something may happen."""
    with files.replacing(path, **how) as file:
        for piece in (text[:20_000], text[20_000:]):
            sys.audit(PIECE)
            file.write(piece)
            file.flush()


@pytest.mark.parametrize("how", HOW, ids=str)
def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    path, found = tmp_path / "status", []
    for n in count(1):
        write(path, OLD, **how)
        killed = killed_before_change(n, lambda: write(path, NEW, **how))
        found.append(path.read_text())
        if not killed:
            break
    assert stages(found) == [OLD, NEW]
    write(path, OLD, **how)
    if "alone" in how:
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("how", HOW, ids=str)
def test_an_error_at_any_moment_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, how: dict[str, Any], error: type[BaseException]
) -> None:
    path, found, failed = tmp_path / "status", [], [0]

    def fail() -> None:
        failed.append(n)
        raise error

    for n in count(1):
        write(path, OLD, **how)
        try:
            with before_each_change(at_call(n, fail)):
                write(path, NEW, **how)
        except error:
            pass
        assert list(tmp_path.iterdir()) == [path]
        found.append(path.read_text())
        if failed[-1] != n:
            break
    assert stages(found) == [OLD, NEW]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("oddities", [[], ["no renaming onto files"]], ids=str)
def test_a_reader_finds_the_old_file_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], oddities: list[str]
) -> None:
    path, found = tmp_path / "status", []
    write(path, OLD)
    put_on(oddities, monkeypatch.setattr)
    with before_each_change(lambda: found.append(path.read_text() if path.exists() else None)):
        write(path, NEW, **how)
    found.append(path.read_text())
    assert stages(found) == ([OLD, None, NEW] if oddities else [OLD, NEW])


@pytest.mark.parametrize("oddity", ODDITIES)
def test_a_file_is_replaced_whole_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oddity: str
) -> None:
    put_on([oddity], monkeypatch.setattr)
    for text in ("first\n", "second\n", "third\n"):
        files.write_atomically(tmp_path / "status", text)
        assert (tmp_path / "status").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["status"]


def test_a_file_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "status").write_text("old")
    put_on(["no renaming onto files"], monkeypatch.setattr)
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        refusing(errno.EACCES)() if source.name == "new" else real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    (tmp_path / "new").write_text("new")
    with pytest.raises(PermissionError):
        files.replace(tmp_path / "new", tmp_path / "status")
    assert (tmp_path / "status").read_text() == "old"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_is_full_or_broken_is_not_taken_for_an_odd_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (tmp_path / "status").write_text("old")
    monkeypatch.setattr(os, "fsync", refusing(code))
    with pytest.raises(OSError, match=os.strerror(code)):
        files.write_atomically(tmp_path / "status", "new")
    with pytest.raises(OSError, match=os.strerror(code)):
        files.sync_directory(tmp_path)
    assert (tmp_path / "status").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["status"]


def test_a_lock_is_one_process_s_until_it_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as mine, path.open("w") as another:
        assert files.lock(mine, path)
        assert not files.lock(another, path)
        mine.close()
        assert files.lock(another, path)


def test_a_lock_on_a_file_that_was_renamed_meanwhile_is_none(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as file:
        path.rename(tmp_path / "finished")
        assert not files.lock(file, path)
        path.touch()
        assert not files.lock(file, path)


@pytest.mark.parametrize("oddity", ["no locks", "no lock daemon"])
def test_without_locks_everyone_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oddity: str, caplog: pytest.LogCaptureFixture
) -> None:
    put_on([oddity], monkeypatch.setattr)
    path = tmp_path / "lock"
    with path.open("w") as file, caplog.at_level("DEBUG"):
        assert files.lock(file, path)
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o027, 0o077])
def test_what_a_library_made_private_is_shared_as_the_umask_says(
    tmp_path: Path, umask: int
) -> None:
    code = (
        "import os, sys; from pathlib import Path; from trainer.files import share\n"
        f"os.umask({umask}); path = Path(sys.argv[1]); path.touch(mode=0o600); share(path)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=True, env=environment())
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_where_permissions_are_fixed_sharing_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").touch(mode=0o600)
    put_on(["permissions are fixed"], monkeypatch.setattr)
    files.share(tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
