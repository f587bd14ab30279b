"""A rollback is known to every later start, at whichever moment the run is killed."""

import errno
import os
from itertools import count
from pathlib import Path

import pytest
from file_changes import killed_before_change
from saved_checkpoints import save

from trainer.checkpoint import folder as files
from trainer.checkpoint import pointers, sealing
from trainer.checkpoint.rollback import ROLLBACK_FILE, Rollback, read_rollback, write_rollback

BACK = Rollback(step=20, data_step=33, attempt=2)


def saved(folder: Path) -> None:
    """Save checkpoints of a first attempt, of which the run goes back to 20."""
    for step in (10, 20, 30, 40):
        save(folder, step)
    pointers.point(folder, "best", pointers.name_of(30))


def test_it_goes_back_past_the_checkpoints_it_distrusts(tmp_path: Path) -> None:
    saved(tmp_path)
    assert files.newest_whole(tmp_path).rollback is None
    write_rollback(tmp_path, BACK)
    found = files.newest_whole(tmp_path)
    assert found.path == tmp_path / pointers.name_of(20)
    assert found.rollback == BACK
    assert [told.split()[0] for told in found.skipped] == [
        str(tmp_path / pointers.name_of(step)) for step in (40, 30)
    ]


def test_what_is_saved_afterwards_counts_and_knows_of_it(tmp_path: Path) -> None:
    saved(tmp_path)
    sealing.go_back(tmp_path, BACK)
    save(tmp_path, 30, attempt=2)
    found = files.newest_whole(tmp_path)
    assert (found.path, found.rollback) == (tmp_path / pointers.name_of(30), None)


def test_a_kill_at_any_moment_forgets_the_rollback_or_knows_all_of_it(tmp_path: Path) -> None:
    found = []
    for n in count(1):
        folder = tmp_path / str(n)
        saved(folder)
        killed = killed_before_change(n, lambda folder=folder: sealing.go_back(folder, BACK))
        newest = files.newest_whole(folder)
        assert newest.path is not None
        found.append((pointers.step_of(newest.path.name), newest.rollback))
        if not killed:
            break
    assert set(found) == {(40, None), (20, BACK)}
    assert found[-1] == (20, BACK)
    left = {path.name for path in folder.iterdir()}
    assert left == {pointers.name_of(10), pointers.name_of(20), "latest", ROLLBACK_FILE}
    assert pointers.pointed(folder, "latest") == pointers.name_of(20)


def test_a_full_disk_makes_place_for_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path)
    write = sealing.write_rollback

    def refuse(folder: Path, rollback: Rollback) -> None:
        if (folder / pointers.name_of(40)).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(folder, rollback)

    monkeypatch.setattr(sealing, "write_rollback", refuse)
    sealing.go_back(tmp_path, BACK)
    assert files.newest_whole(tmp_path).rollback == BACK


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1, "step": -1}'])
def test_a_broken_record_counts_as_none(tmp_path: Path, text: str) -> None:
    saved(tmp_path)
    (tmp_path / ROLLBACK_FILE).write_text(text)
    assert read_rollback(tmp_path) is None
    assert files.newest_whole(tmp_path).path == tmp_path / pointers.name_of(40)
