"""A filed result keeps what it is of, and is found by nothing less."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import InputError
from trainer.track.measure import Measure
from trainer.track.run_files.results import (
    EvalResult,
    by_text,
    file_result,
    newest,
    parse_result,
    read_results,
    table_rows,
)

WEIGHTS = {"weights-00000.safetensors": "ab" * 16}
VALUES: dict[str, Any] = {
    "corpus": "wt103",
    "corpus_hash": "01" * 16,
    "split": "test",
    "split_hash": "23" * 16,
    "precision": "bf16",
    "rule": "every token",
    "settings": {
        "tgt_len": 64,
        "mem_len": 640,
        "clamp_len": 400,
        "same_length": True,
        "warm": "exact",
        "batch_size": 8,
    },
    "checkpoint": "step-00000040",
    "checkpoint_hash": WEIGHTS,
    "step": 40,
    "loss": 3.25,
    "ppl": 25.79,
    "ppl_word": 25.79,
    "bpc": 0.9,
    "n_tokens": 245_568,
    "seconds": 10.5,
    "tokens_per_s": 23_387.4,
    "counting": "every token",
    "world_size": 2,
    "date": "2026-11-25T10:00:00+00:00",
}

#: As the first version of the format was written.
OLD = {
    "loss": 2.25,
    "ppl": 9.49,
    "ppl_word": float("inf"),
    "bpc": 1.5,
    "n_tokens": 30,
    "seconds": 1.5,
    "tokens_per_s": 20.0,
    "counting": "every token but the first of the split, each exactly once",
    "split": "test",
    "precision": "fp32",
    "world_size": 1,
    "checkpoint": "step-00000006",
    "settings": {
        "tgt_len": 12,
        "mem_len": 20,
        "clamp_len": None,
        "same_length": False,
        "batch_size": 2,
        "warm": "exact",
    },
    "step": 6,
    "corpus": "/home/someone/corpora/mine",
    "corpus_hash": "45" * 16,
    "split_hash": "67" * 16,
    "vocabulary_hash": "89" * 16,
    "date": "2026-01-01T00:00:00+00:00",
    "checkpoint_hash": WEIGHTS,
}


def result(**changes: Any) -> EvalResult:
    """Return a result; changes of `settings` are changes of single lengths."""
    values = VALUES | changes
    return EvalResult(**values | {"settings": VALUES["settings"] | changes.get("settings", {})})


def write(run: Path, name: str, content: object) -> None:
    (run / "evals").mkdir(exist_ok=True)
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (run / "evals" / name).write_bytes(text)


def test_what_is_filed_is_read_back(tmp_path: Path) -> None:
    path = file_result(tmp_path, result())
    found, broken = read_results(tmp_path)
    assert (found, broken) == ([result(version=2)], [])
    values = json.loads(path.read_text())
    assert values["corpus"] == "wt103"
    assert "wt103" in path.name
    assert read_results(tmp_path / "no run") == ([], [])


OTHERS: list[dict[str, Any]] = [
    {"split": "valid"},
    {"split_hash": "45" * 16},
    {"precision": "fp32"},
    {"rule": "as fairseq"},
    {"checkpoint": "step-00000020"},
    {"checkpoint_hash": {"weights": "cd" * 16}},
    *(
        {"settings": change}
        for change in (
            {"tgt_len": 32},
            {"mem_len": 0},
            {"clamp_len": None},
            {"same_length": False},
            {"warm": "near"},
        )
    ),
]


@pytest.mark.parametrize("change", OTHERS, ids=str)
def test_a_result_is_found_by_all_of_its_identity_and_by_no_part_of_it(
    change: dict[str, Any], tmp_path: Path
) -> None:
    file_result(tmp_path, result(**change, loss=9.0))
    of = Measure.model_validate(result().model_dump())
    wanted = {"checkpoint": "step-00000040", "weights": WEIGHTS}
    assert newest(read_results(tmp_path).results, of, **wanted) is None
    file_result(tmp_path, result())
    found = newest(read_results(tmp_path).results, of, **wanted)
    assert found is not None
    assert found.loss == 3.25
    assert len(read_results(tmp_path).results) == 2


def test_the_newest_of_equal_results_is_taken_whatever_its_file_is_called(tmp_path: Path) -> None:
    for name, hour, loss in (("a.json", 12, 1.0), ("b.json", 13, 2.0), ("c.json", 11, 3.0)):
        values = VALUES | {"loss": loss, "date": f"2026-11-25T{hour}:00:00+00:00"}
        write(tmp_path, name, values | {"corpus": "renamed", "world_size": 1})
    results = read_results(tmp_path).results
    found = newest(results, result(), checkpoint="step-00000040", weights=WEIGHTS)
    assert found is not None
    assert found.loss == 2.0


def test_a_result_replaces_only_one_of_its_own_identity(tmp_path: Path) -> None:
    for change in [{}, *OTHERS]:
        file_result(tmp_path, result(**change))
    assert len(read_results(tmp_path).results) == 1 + len(OTHERS)
    file_result(tmp_path, result(world_size=8, loss=1.0, settings={"batch_size": 1}))
    assert len(read_results(tmp_path).results) == 1 + len(OTHERS)


def test_a_curve_is_of_one_text_read_in_one_manner_at_any_step() -> None:
    others = [change for change in OTHERS if not {"checkpoint", "checkpoint_hash"} & change.keys()]
    others = [change | {"corpus_hash": change.get("split_hash", "01" * 16)} for change in others]
    assert len({result(**change).series for change in [{}, *others]}) == 1 + len(others)
    assert result(checkpoint="step-00000020", step=20).series == result().series


def test_results_of_older_runs_stay_readable(tmp_path: Path) -> None:
    write(tmp_path, "a.json", OLD)
    write(tmp_path, "b.json", OLD | {"loss_base2": 3.2, "counting": "as fairseq, 3 of 4 tokens"})
    (ours, theirs), broken = read_results(tmp_path)
    assert broken == []
    assert (ours.rule, theirs.rule) == ("every token", "as fairseq")
    assert ours.source == "test of mine (454545454545)"
    assert (ours.loss, ours.ppl_word) == (2.25, None)


def test_what_a_file_does_not_say_is_shown_as_unknown() -> None:
    (heads, row), notes = table_rows([parse_result(b'{"loss": 1.0}', where="x")])
    told = dict(zip(heads, row, strict=True))
    assert told.pop("loss") == "1.000000"
    assert (set(told.values()), notes) == ({"?"}, [])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[1]",
        b"null",
        b'"loss"',
        b"\0" * 40,
        *(
            VALUES | change
            for change in (
                {"loss": "3.2"},
                {"loss": True},
                {"loss": [3.2]},
                {"n_tokens": -1},
                {"n_tokens": 1.5},
                {"n_tokens": 10**400},
                {"seconds": -1.0},
                {"step": "40"},
                {"split": 3},
                {"rule": "most tokens"},
                {"settings": {"mem_len": "640"}},
                {"settings": [64, 640]},
                {"settings": {"same_length": 1}},
                {"corpus": {"a": 1}},
                {"checkpoint_hash": "abc"},
                {"corpus": "x" * 5_000},
                {"version": 4},
                {"version": None},
                {"absent": {"bpc": 3}},
            )
        ),
    ],
    ids=lambda content: str(content)[-40:],
)
def test_a_file_that_is_no_result_costs_itself_alone(content: object, tmp_path: Path) -> None:
    write(tmp_path, "a.json", content)
    write(tmp_path, "b.json", VALUES)
    found, broken = read_results(tmp_path)
    assert [r.loss for r in found] == [3.25]
    (told,) = broken
    assert "a.json" in told
    assert told.isprintable()
    assert len(told) < 500


def test_what_is_no_file_of_results_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "b.json", VALUES)
    (tmp_path / "evals" / "folder.json").mkdir()
    os.mkfifo(tmp_path / "evals" / "pipe.json")
    (tmp_path / "evals" / "link.json").symlink_to("nowhere")
    write(tmp_path, "long.json", b'{"loss": 1.0, "counting": "' + b" " * (5 << 20) + b'"}')
    found, broken = read_results(tmp_path)
    assert len(found) == 1
    assert len(broken) == 4


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_a_number_that_is_not_finite_is_not_there(number: float, tmp_path: Path) -> None:
    write(tmp_path, "a.json", VALUES | {"ppl": number, "seconds": number})
    ((found,), broken) = read_results(tmp_path)
    assert (found.ppl, found.seconds, found.loss, broken) == (None, None, 3.25, [])


def test_a_newer_version_says_what_to_do() -> None:
    with pytest.raises(InputError, match="version 4, newer than the 3 known here: update"):
        parse_result(b'{"version": 4}', where="x")


def test_names_from_outside_neither_leave_the_folder_nor_forge_a_line(tmp_path: Path) -> None:
    name = "../../\nerror: forged\x1b[31m|" + "x" * 300
    path = file_result(tmp_path, result(corpus=name, checkpoint=name))
    assert path.parent == tmp_path / "evals"
    assert path.name.isprintable()
    assert len(path.name) < 255
    ((found,), _) = read_results(tmp_path)
    (text,) = by_text([found])
    assert text.isprintable()
    assert "x" * 300 not in text


def test_a_value_that_is_absent_bears_its_reason_once() -> None:
    lossy = {"bpc": None, "absent": {"bpc": "the tokenizer loses characters"}}
    (heads, *rows), notes = table_rows([result(**lossy), result(ppl=None), result(**lossy)])
    column = [row[heads.index("bpc")] for row in rows]
    assert column == ["- [1]", "0.9000", "- [1]"]
    assert rows[1][heads.index("ppl")] == "?"
    assert notes == ["bpc: the tokenizer loses characters"]


def test_results_are_told_apart_by_corpus_hash_and_split_and_stand_in_a_fixed_order() -> None:
    other = {"corpus_hash": "99" * 16, "split_hash": "98" * 16}
    results = [result(), result(**other), result(split="valid"), result(settings={"mem_len": 0})]
    groups = by_text(results)
    assert list(groups) == [
        "test of wt103 (010101010101)",
        "valid of wt103 (010101010101)",
        "test of wt103 (999999999999)",
    ]
    assert [r.settings.mem_len for r in next(iter(groups.values()))] == [0, 640]
    assert list(by_text(reversed(results))) == list(groups)
