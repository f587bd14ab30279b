"""Faults are small, where they are said to be, and told apart by the tests of their room."""

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = b'''"""A module."""


def grade(n: int, *, most: int = 3) -> int:
    """Say how much n is."""
    if n < most and not n == 1:
        log.info("small", n - 1)
        return n + 1
    note(n, most)
    raise ValueError(f"{n - 1} is too much")
'''


@pytest.fixture
def mutate(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import mutate

    yield mutate
    for name in ("mutate", "operators", "rooms", "equivalent"):
        del sys.modules[name]


def test_each_operator_changes_one_place_and_nothing_that_only_tells(mutate: Any) -> None:
    import operators

    found = [
        (fault.line, fault.operator, fault.was, fault.now)
        for fault in operators.faults_of("grade.py", SOURCE)
    ]
    assert sorted(found) == [
        (4, "constant", "3", "(4)"),
        (6, "comparison", "n < most", "(n <= most)"),
        (6, "comparison", "n == 1", "(n != 1)"),
        (6, "constant", "1", "(2)"),
        (6, "logic", "n < most and not n == 1", "(n < most or not n == 1)"),
        (6, "logic", "not n == 1", "(n == 1)"),
        (8, "arithmetic", "n + 1", "(n - 1)"),
        (8, "constant", "1", "(2)"),
        (9, "arguments", "note(n, most)", "(note(most, n))"),
        (9, "call", "note(n, most)", "pass"),
    ]
    for fault in operators.faults_of("grade.py", SOURCE):
        seeded = fault.seeded(SOURCE)
        ast.parse(seeded)
        assert seeded.count(b"\n") == SOURCE.count(b"\n")


def test_faults_are_drawn_of_every_room_and_the_same_by_the_same_seed(mutate: Any) -> None:
    import rooms

    drawn = list(rooms.of_all(ROOT, list(rooms.ROOMS), n=20, seed=1))
    assert len(drawn) >= 100
    assert {room.name for room, _ in drawn[: len(rooms.ROOMS)]} == {r.name for r in rooms.ROOMS}
    assert len({fault.id for _, fault in drawn}) == len(drawn)
    assert [fault for _, fault in rooms.of_all(ROOT, list(rooms.ROOMS), n=20, seed=1)] == [
        fault for _, fault in drawn
    ]
    for room in rooms.ROOMS:
        assert all((ROOT / path).exists() for path in (*room.files, *room.tests))
    by_hand = [fault for _, fault in drawn if fault.operator == "by hand"]
    assert len(by_hand) == len(rooms.BY_HAND)


def test_a_fault_is_found_one_that_changes_nothing_is_not_and_the_log_goes_on(
    mutate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy has a single room, of which the real test is the judge."""
    import operators
    import rooms

    tree = mutate.copy_tree(tmp_path / "tree")
    file, test = (
        "trainer/engine/optimizers/schedules.py",
        "tests/engine/optimizers/test_schedules.py",
    )
    room, source = rooms.Room("schedules", (file,), (test,)), (tree / file).read_bytes()
    wrong = operators.by_text(file, source, was="0.5 * (lr", now="0.5000005 * (lr")
    same = operators.by_text(
        file, source, was="self.updates += 1", now="self.updates = self.updates + 1"
    )
    monkeypatch.setattr(mutate, "copy_tree", lambda to: tree)
    log = tmp_path / "log.jsonl"
    mutate.try_all(log, [(room, wrong), (room, same)], jobs=1)
    assert (tree / file).read_bytes() == source
    told = mutate.read_log(log)
    assert (told[wrong.id]["found"], told[same.id]["found"]) == (True, False)
    assert test in told[wrong.id]["by"]
    assert "| schedules | 2 | 0 | 1 | 50.0% |" in list(mutate.table(told))
    monkeypatch.setitem(mutate.EQUIVALENT, f"{file}: {same.id.partition(': ')[2]}", "the same sum")
    assert "| schedules | 2 | 1 | 1 | 100.0% |" in list(mutate.table(told))
    log.write_text(log.read_text() + json.dumps(told[same.id] | {"found": True}) + "\n")
    assert mutate.read_log(log)[same.id]["found"]
