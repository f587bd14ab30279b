"""Where a run was at a step follows from its records, whatever was done again."""

from pathlib import Path
from typing import Any

import pytest

from trainer.errors import InputError
from trainer.report.inspect.place import place_of
from trainer.track.record.metrics import MetricsWriter


def record(run_dir: Path, attempt: int, begin: str, at: int, last: int, **details: Any) -> None:
    """Record an attempt of these steps."""
    run_dir.mkdir(exist_ok=True)
    writer = MetricsWriter(run_dir, attempt=attempt)
    how = {"update": 0, "n_tokens": 0}
    writer.write("event", step=at, values={"event": begin, **details}, **how)
    for step in range(at + 5, last + 1, 5):
        loss = {"train/loss": step + attempt / 10}
        writer.write("train", step=step, values=loss, **how)
    writer.write("event", step=last, values={"event": "stop"}, **how)
    writer.close()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return a run that went back from step 33 to 20, past the text, and was resumed from 30."""
    run_dir = tmp_path / "run"
    record(run_dir, 1, "start", 0, 33, data_step=0)
    record(run_dir, 2, "rollback", 20, 37, data_step=33)
    record(run_dir, 3, "resume", 30, 50, data_step=43)
    return run_dir


@pytest.mark.parametrize(
    ("step", "attempt", "data_step", "others"),
    [
        (1, 1, 0, []),
        (20, 1, 19, []),
        (21, 2, 33, [1]),
        (30, 2, 42, [1]),
        (31, 3, 43, [1, 2]),
        (50, 3, 62, []),
    ],
)
def test_the_last_attempt_that_did_a_step_counts(
    run_dir: Path, step: int, attempt: int, data_step: int, others: list[int]
) -> None:
    place = place_of(run_dir, step=step, attempt=None)
    assert (place.attempt.number, place.data_step, place.others) == (attempt, data_step, others)


def test_another_attempt_is_named(run_dir: Path) -> None:
    place = place_of(run_dir, step=30, attempt=1)
    assert (place.attempt.number, place.data_step, place.others) == (1, 29, [2])
    assert place.attempt.losses[30] == 30.1
    with pytest.raises(InputError, match="--attempt 3 did not do step 30: give one of 1, 2"):
        place_of(run_dir, step=30, attempt=3)
    with pytest.raises(InputError, match=r"--step 51 is not recorded: .* has steps 1 to 50"):
        place_of(run_dir, step=51, attempt=None)
    with pytest.raises(InputError, match="--step 0 is not recorded"):
        place_of(run_dir, step=0, attempt=None)


def test_records_that_do_not_say_their_position_follow_from_those_before(tmp_path: Path) -> None:
    record(tmp_path / "run", 1, "start", 0, 33)
    record(tmp_path / "run", 2, "rollback", 20, 37, data_step=33)
    record(tmp_path / "run", 3, "resume", 30, 50)
    assert place_of(tmp_path / "run", step=50, attempt=None).data_step == 62


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give the directory of a run"):
        place_of(tmp_path, step=1, attempt=None)
