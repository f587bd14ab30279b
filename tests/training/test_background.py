"""A job's slow work is done by a thread; the job goes on where it belongs: between steps."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import lone_world
from ranks import told_by_ranks

from trainer.distributed import World, gather_objects
from trainer.training.background import Background


def job(
    name: str, seen: list[str], *, waits_for: threading.Event | None = None
) -> Iterator[Callable[[], None]]:
    """Yield two pieces of work, and what is done before, between and after them."""

    def work(part: int) -> None:
        if waits_for is not None:
            assert waits_for.wait(60)
        seen.append(f"{name} works {part} in {here()}")

    for part in (1, 2):
        seen.append(f"{name} begins {part} in {here()}")
        yield lambda: work(part)  # noqa: B023  # done before the next is begun
    seen.append(f"{name} ends in {here()}")


def here() -> str:
    return "the main thread" if threading.current_thread() is threading.main_thread() else "another"


def whole(name: str) -> list[str]:
    """Return what is seen of a job from its beginning to its end."""
    return [
        f"{name} begins 1 in the main thread",
        f"{name} works 1 in another",
        f"{name} begins 2 in the main thread",
        f"{name} works 2 in another",
        f"{name} ends in the main thread",
    ]


@pytest.fixture
def background() -> Iterator[Background]:
    background = Background(lone_world())
    yield background
    background.close()


def test_steps_go_on_while_work_is_done(background: Background) -> None:
    seen: list[str] = []
    steps_done = threading.Event()
    background.start(job("save", seen, waits_for=steps_done))
    for _ in range(20):
        background.advance()
    assert seen == whole("save")[:1]
    steps_done.set()
    background.wait()
    assert seen == whole("save")


def test_a_job_begins_when_the_one_before_has_ended(background: Background) -> None:
    seen: list[str] = []
    for name in ("first", "second", "third"):
        background.start(job(name, seen))
    background.wait()
    assert seen == whole("first") + whole("second") + whole("third")


def test_waiting_for_work_is_progress_while_the_work_gets_on_and_no_longer() -> None:
    world = lone_world()
    background = Background(world)
    part_is_done, may_end = threading.Event(), threading.Event()

    def work() -> None:
        world.progress.note_work()
        part_is_done.set()
        assert may_end.wait(60)

    background.start(iter([work]))
    assert part_is_done.wait(60)
    for _ in range(9):
        background.advance()
    assert world.progress.count == 1
    may_end.set()
    background.wait()
    background.close()


def test_advancing_step_by_step_comes_to_the_end(background: Background) -> None:
    seen: list[str] = []
    background.start(job("save", seen))
    while len(seen) < 5:
        background.advance()
    background.advance()
    assert seen == whole("save")


def failing(*, in_thread: bool) -> Iterator[Callable[[], None]]:
    def fail() -> None:
        raise OSError("no space")

    if in_thread:
        yield fail
    yield lambda: None
    fail()


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_job_that_fails_is_told_of_once_and_the_next_one_is_done(
    background: Background, in_thread: bool
) -> None:
    background.start(failing(in_thread=in_thread))
    with pytest.raises(OSError, match="no space"):
        background.wait()
    seen: list[str] = []
    background.start(job("next", seen))
    background.wait()
    assert seen == whole("next")


def test_closing_lets_the_work_end_and_gives_up_the_job() -> None:
    seen: list[str] = []
    background = Background(lone_world())
    background.start(job("save", seen))
    background.close()
    background.advance()
    background.wait()
    assert seen == whole("save")[:2]


#: Steps of which rank 1 knows that it has not done its work yet.
BUSY_STEPS = 5


def uneven(world: World, folder: Path) -> dict[str, object]:
    """Return at which step each rank goes on with a job of which rank 1 does its part late."""
    seen: list[str] = []
    steps_done = threading.Event()
    background = Background(world)
    background.start(job("save", seen, waits_for=steps_done if world.rank == 1 else None))
    went_on, step = None, 0
    while went_on is None:
        step += 1
        if step == BUSY_STEPS:
            steps_done.set()
        background.advance()
        went_on = step if len(seen) > 2 else None
    background.wait()
    background.close()
    return {"went on": went_on, "told": gather_objects(went_on, world), "seen": seen}


def test_ranks_go_on_at_the_same_step_when_the_last_has_done_its_work(tmp_path: Path) -> None:
    first, second = told_by_ranks(uneven, tmp_path)
    assert first == second
    assert first["went on"] > BUSY_STEPS
    assert first["seen"] == whole("save")
