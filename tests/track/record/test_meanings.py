"""Every number and event that a run records has a meaning."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import trainer
from trainer.track.record.meanings import EVENTS, EVERY_RECORD, METRICS, RESULT, TRACKED
from trainer.track.record.records import whole_records

TREES = {
    path: ast.parse(path.read_text())
    for path in sorted(Path(trainer.__file__).parent.rglob("*.py"))
}
NAME = re.compile(r"(train|valid|optim|throughput|memory|sample)/[a-z_]+")


def constants() -> Iterator[str]:
    for path, tree in TREES.items():
        if path.name != "meanings.py":
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def recorded_events() -> Iterator[tuple[str, set[str]]]:
    """Yield names and details of the events in the source."""
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("event"):
                names = [a.value for a in node.args if isinstance(a, ast.Constant)]
                if names and isinstance(names[0], str):
                    yield names[0], {k.arg for k in node.keywords if k.arg} - {*EVERY_RECORD}


def test_what_a_run_records_has_a_meaning_and_nothing_else_has(trained: Path) -> None:
    found: dict[str, set[str]] = {}
    for record in whole_records(trained / "metrics.jsonl"):
        if record["kind"] == "event":
            name, details = record["event"], record.keys() - EVERY_RECORD.keys() - {"event"}
            assert details <= EVENTS[name].details.keys(), name
        else:
            found.setdefault(record["kind"], set()).update(record.keys() - EVERY_RECORD.keys())
    found["train"].add("throughput/mfu")  # recorded where the peak is known
    assert found == {kind: set(metrics) for kind, metrics in METRICS.items()}


def test_the_result_in_the_status_has_a_meaning(trained: Path) -> None:
    result = json.loads((trained / "status.json").read_text())["result"]
    assert result.keys() == RESULT.keys()


def test_every_metric_that_the_source_names_has_a_meaning() -> None:
    known = {name for metrics in (*METRICS.values(), TRACKED, RESULT) for name in metrics}
    named = {text for text in constants() if NAME.fullmatch(text)}
    assert "optim/lr" in named
    assert named - known == set()


def test_every_event_of_the_source_has_a_meaning_with_its_details() -> None:
    found: dict[str, set[str]] = {}
    for name, details in recorded_events():
        found.setdefault(name, set()).update(details - {"n_tokens", "says"})
    assert found.keys() == EVENTS.keys()
    for name, details in found.items():
        assert details <= EVENTS[name].details.keys(), name
    assert all(text for event in EVENTS.values() for text in [event.when, *event.details.values()])
