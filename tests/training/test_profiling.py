"""A window of steps is traced on rank 0, and nothing but that window."""

import json
from pathlib import Path

import pytest
import torch
from builders import lone_world
from training import events

from trainer.training.profiling import Profiler


def steps_traced(trace: Path) -> int:
    """Return how many of the marked steps a trace shows."""
    shown = json.loads(trace.read_text())["traceEvents"]
    return sum(event.get("name") == "one step" for event in shown)


def train(profiler: Profiler, *, n_steps: int, begins_at: int = 0) -> list[Path | None]:
    """Run steps that multiply a matrix; return what the profiler wrote after each."""
    written = []
    for step in range(begins_at, n_steps):
        profiler.before_step(step)
        with torch.profiler.record_function("one step"):
            torch.ones(4, 4) @ torch.ones(4, 4)
        written.append(profiler.after_step(step + 1))
    return written


def test_a_run_leaves_the_trace_it_was_asked_for(trained: Path) -> None:
    trace = json.loads((trained / "logs" / "profile.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"aten::mm", "aten::addmm", "aten::bmm"} & names
    assert any("Backward" in str(name) for name in names)


def test_a_run_says_where_its_trace_lies(trained: Path) -> None:
    (event,) = events(trained, "profile")
    assert (event["step"], event["path"]) == (4, str(trained / "logs" / "profile.json"))
    assert event["path"] in (trained / "logs" / "rank-00000.log").read_text()


def test_the_window_holds_the_steps_from_the_first_to_before_the_last(tmp_path: Path) -> None:
    profiler = Profiler((2, 4), run_dir=tmp_path, world=lone_world())
    written = train(profiler, n_steps=7)
    trace = tmp_path / "logs" / "profile.json"
    assert written == [None, None, None, trace, None, None, None]
    assert steps_traced(trace) == 2
    assert (profiler.close(), profiler.missed) == (None, None)


def test_a_run_that_ends_within_the_window_writes_what_there_is(tmp_path: Path) -> None:
    profiler = Profiler((2, 9), run_dir=tmp_path, world=lone_world())
    assert train(profiler, n_steps=5) == [None] * 5
    trace = profiler.close()
    assert trace is not None
    assert steps_traced(trace) == 3


@pytest.mark.parametrize(("window", "rank"), [(None, 0), ((2, 4), 1)])
def test_without_a_window_or_off_rank_0_nothing_is_written(
    tmp_path: Path, window: tuple[int, int] | None, rank: int
) -> None:
    world = lone_world(rank=rank, world_size=2)
    profiler = Profiler(window, run_dir=tmp_path, world=world)
    assert train(profiler, n_steps=5) == [None] * 5
    assert profiler.close() is None
    assert list(tmp_path.iterdir()) == []


def test_a_run_resumed_beyond_the_window_writes_no_trace(tmp_path: Path) -> None:
    profiler = Profiler((2, 4), run_dir=tmp_path, world=lone_world())
    assert train(profiler, n_steps=6, begins_at=3) == [None] * 3
    assert profiler.close() is None
    assert profiler.missed == (2, 4)
