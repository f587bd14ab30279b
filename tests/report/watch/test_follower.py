"""A file that grows is read on from where the last look ended."""

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest

from trainer.errors import InputError
from trainer.report.watch import follower
from trainer.report.watch.follower import Follower


def line(step: int, **values: object) -> str:
    counters = {"step": step, "update": step, "tokens": step, "attempt": 1, "time": step}
    record = {"schema": 1, "kind": "train", **counters, "train/loss": 1.0 + step % 7, **values}
    return json.dumps(record) + "\n"


def steps(watched: Follower) -> list[int]:
    return watched.look().train.step.tolist()


def test_what_is_appended_is_added_and_a_half_line_waits(tmp_path: Path) -> None:
    watched, file = Follower(tmp_path), tmp_path / "metrics.jsonl"
    assert steps(watched) == []
    with file.open("w") as out:
        for text, expected in (
            (line(1) + line(2)[:30], [1]),
            (line(2)[30:], [1, 2]),
            ("{torn\n" + line(3), [1, 2, 3]),
            ("", [1, 2, 3]),
        ):
            out.write(text)
            out.flush()
            assert steps(watched) == expected


def test_a_file_that_was_replaced_or_cut_is_read_anew(tmp_path: Path) -> None:
    watched, file = Follower(tmp_path), tmp_path / "metrics.jsonl"
    file.write_text(line(1) + line(2))
    assert steps(watched) == [1, 2]
    (tmp_path / "new").write_text(line(7) + line(8) + line(9))
    os.replace(tmp_path / "new", file)
    assert steps(watched) == [7, 8, 9]
    file.write_text(line(5))
    assert steps(watched) == [5]


def test_of_a_long_file_the_end_is_read_whole_and_the_rest_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WHOLE_BYTES", 50_000), ("END_BYTES", 20_000), ("N_PIECES", 10)):
        monkeypatch.setattr(follower, name, value)
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(map(line, range(1, 3001))))
    watched = Follower(tmp_path)
    found = steps(watched)
    assert (found[0], found[-1]) == (1, 3000)
    assert set(found) >= {*range(2900, 3001)}
    assert len(found) < 1500
    assert max(b - a for a, b in pairwise(found)) < 400
    with file.open("a") as out:
        out.write(line(3001))
    assert steps(watched) == [*found, 3001]


def test_a_newer_version_is_refused_and_what_is_no_file_too(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(line(1, schema=2))
    with pytest.raises(InputError, match="has schema 2, newer than the 1 known"):
        Follower(tmp_path).look()
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match="is a folder, not a file"):
        Follower(tmp_path).look()
