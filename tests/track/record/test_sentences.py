"""Every event is told in a sentence, which says the same as its record."""

import re
from pathlib import Path

import pytest

import trainer
from trainer.track.record.sentences import event_sentence, sentence

WHERE = {"bad_step": 1199, "ranks": [0], "streams": [3, 4]}
CHANGE = {"field": "train.max_steps", "before": 20, "after": 30}
SENTENCES = [
    ("start", {"parameters": 5, "parent": None}, "training starts with new weights"),
    ("start", {"parent": "a/step-5"}, "training starts with the weights of a/step-5"),
    (
        "resume",
        {"path": "step-1", "skipped": ["step-2: torn"], "changes": [CHANGE], "parent": None},
        "training goes on from step 1,200, checkpoint step-1; passed over 1 newer checkpoint: "
        "step-2: torn; changed: train.max_steps is 30, was 20",
    ),
    (
        "resume",
        {"path": "step-1", "skipped": [], "changes": [], "parent": "a"},
        "training goes on from step 1,200, checkpoint step-1, begun from a",
    ),
    ("checkpoint", {"path": "step-1"}, "the checkpoint of step 1,200 is saved: step-1"),
    (
        "checkpoint_failed",
        {"error": "disk full"},
        "the checkpoint of step 1,200 could not be saved, training goes on: disk full",
    ),
    (
        "skip",
        {"loss_scale": 32768.0},
        "step 1,200 left the weights as they were: its gradients were not finite; the loss scale "
        "is 32,768 now",
    ),
    (
        "skip",
        {"loss_scale": 1.0},
        "step 1,200 left the weights as they were: its gradients were not finite",
    ),
    (
        "spike",
        {"loss": 9.5, "median": 4.25, "limit": 5.5, "bad_step": 1198},
        "the loss jumped up to 9.5000 at step 1,198; of the steps before the median is 4.2500, and "
        "up to 5.5000 is usual",
    ),
    (
        "nonfinite",
        {"in_a_row": 2, **WHERE},
        "the loss of step 1,199 was not finite (rank 0, stream 3, 4); 2 steps in a row",
    ),
    (
        "rollback",
        {"path": "step-1", "data_step": 9, **WHERE},
        "went back to step-1, since losses stayed not finite (rank 0, stream 3, 4): training goes "
        "on from there, with the text after the bad one",
    ),
    (
        "profile",
        {"path": "trace.json", "opens_in": "ui.perfetto.dev"},
        "the profiled steps are in trace.json: open it in ui.perfetto.dev",
    ),
    (
        "expectation",
        {"missed": ["ppl 30 is above 20"]},
        "the run misses what --expect asked for: ppl 30 is above 20",
    ),
    (
        "untracked",
        {"reason": "no answer"},
        "from step 1,200 on wandb no longer tracks this run: no answer",
    ),
    ("stop", {"reason": "Ctrl-C"}, "training ends at step 1,200: Ctrl-C"),
    ("stop", {"reason": "done"}, "training ends at step 1,200"),
    ("another", {"a": 1, "b": None, "c": [2]}, "another at step 1,200 a=1 c=[2]"),
]


@pytest.mark.parametrize(("event", "details", "said"), SENTENCES)
def test_an_event_is_told_in_a_sentence(event: str, details: dict[str, object], said: str) -> None:
    assert sentence(event, details, step=1200) == said


@pytest.mark.parametrize("event", sorted({event for event, _, _ in SENTENCES}))
def test_a_record_without_its_details_is_told_all_the_same(event: str) -> None:
    assert sentence(event, {}, step=1200)


def test_every_documented_event_has_a_sentence() -> None:
    readme = (Path(trainer.__file__).parent / "track" / "README.md").read_text()
    table = readme.split("**Events**")[1].split("\n\n")[1]
    heads = [row.split("|")[1] for row in table.splitlines()[2:]]
    documented = {name for head in heads for name in re.findall(r"`(\w+)`", head)}
    assert documented
    assert documented == {event for event, _, _ in SENTENCES} - {"another"}


@pytest.mark.parametrize(
    "value", [7, 1e400, 10**60, "\x1b[31m\u202e" * 900, [[["x"]]], {"a": None}]
)
@pytest.mark.parametrize("event", sorted({event for event, _, _ in SENTENCES}))
def test_a_record_with_any_details_is_told_in_one_line(event: str, value: object) -> None:
    """A file may hold what no trainer writes."""
    names = {name for _, details, _ in SENTENCES for name in details} | {"loss_scale"}
    record = {"kind": "event", "event": event, "step": 5, **dict.fromkeys(names, value)}
    said = event_sentence(record, most=300)
    assert said.isprintable()
    assert 10 < len(said) < 3000  # what is escaped is longer
