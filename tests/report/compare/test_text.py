"""A comparison finds what was planted, and compares nothing that does not compare."""

import json
from pathlib import Path

import numpy as np
import pytest
from compared_runs import N_TOKENS, add_result, make_compared
from reported_runs import LENGTHS, read
from txl_command import exit_code

from trainer.errors import Exit
from trainer.report.compare.text import Comparison, comparison, to_json, told

NATS = np.random.default_rng(5).gamma(2.0, 1.5, N_TOKENS)


def compared(*run_dirs: Path) -> tuple[Comparison, str]:
    runs = read(run_dirs)
    found = comparison(runs, axis="step")
    return found, told(found, runs)


def test_a_run_against_itself_differs_by_exactly_nothing(tmp_path: Path) -> None:
    run = make_compared(tmp_path / "a", nats=NATS)
    found, text = compared(run, run)
    (evaluation,) = found.evaluations[0].differences
    assert evaluation.interval is not None
    assert (evaluation.nats, evaluation.interval.low, evaluation.interval.high) == (0, 0, 0)
    assert [pair.step for pair in found.partings[0]] == [None, None]
    assert (found.facts.settings, found.facts.versions, found.facts.text) == ([], [], [])
    assert "settings: the same" in text
    assert "equal at all 100 steps that both recorded" in text
    assert "B − A +0.000000 nats (95 % interval +0.000000 to +0.000000" in text
    assert all(a == b for a, b in found.train.losses)


def test_a_planted_rate_and_the_first_step_that_differs_are_found(tmp_path: Path) -> None:
    one = make_compared(tmp_path / "a")
    other = make_compared(
        tmp_path / "b",
        optim={"lr": 3e-4},
        loss_at=lambda step: 8.0 - step / 20 + (1e-9 if step >= 37 else 0),
    )
    found, text = compared(one, other)
    assert found.facts.settings == [("optim.lr", ("0.00025", "0.0003"))]
    train, valid = found.partings[0]
    assert (train.step, train.n_common, valid.step) == (37, 100, 40)
    assert "training losses of A and B first differ at step 37: 6.15 and 6.15" in text
    assert "optim.lr  0.00025  0.0003" in " ".join(text.split(" ")) or "optim.lr" in text


def test_means_over_other_steps_are_not_taken_for_other_losses(tmp_path: Path) -> None:
    runs = [make_compared(tmp_path / str(every), every=every) for every in (4, 10, 20)]
    for other in runs[1:]:
        found, text = compared(runs[0], other)
        assert found.partings[0][0].n_common == 0
        assert "training losses of A and B: no record of the same steps" in text
    again = make_compared(tmp_path / "again", every=4)
    assert compared(runs[0], again)[0].partings[0][0] == (
        25,
        None,
        *[pytest.approx(np.nan, nan_ok=True)] * 2,
    )


def test_a_planted_change_of_the_corpus_is_found(tmp_path: Path) -> None:
    one = make_compared(tmp_path / "a")
    other = make_compared(tmp_path / "b", corpus_hash="02" * 16)
    found, text = compared(one, other)
    corpus = next(row for row in found.facts.text if row.name == "corpus")
    assert corpus.values == ("wt103 (010101010101)", "wt103 (020202020202)")
    assert "text and model that differ" in text


def test_the_planted_difference_lies_in_the_interval(tmp_path: Path) -> None:
    noise = np.random.default_rng(6).normal(0, 0.3, N_TOKENS)
    one = make_compared(tmp_path / "a", nats=NATS)
    other = make_compared(tmp_path / "b", nats=NATS + 0.05 + noise)
    (evaluation,) = compared(one, other)[0].evaluations[0].differences
    interval = evaluation.interval
    assert interval is not None
    assert interval.low < 0.05 < interval.high
    assert interval.high - interval.low < 0.06
    assert evaluation.nats == interval.mean


def test_without_tokens_there_is_a_difference_and_the_command_for_an_interval(
    tmp_path: Path,
) -> None:
    one = make_compared(tmp_path / "a", nats=NATS)
    other = make_compared(tmp_path / "b", ppl=9.0)
    found, text = compared(one, other)
    (evaluation,) = found.evaluations[0].differences
    assert evaluation.interval is None
    assert evaluation.nats == pytest.approx(np.log(9.0) - NATS.mean(), rel=1e-5)
    assert f"eval {tmp_path}/b --split test --mem-len 640 --per-token" in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rule": "as fairseq"}, "counted every token, not as fairseq"),
        ({"settings": LENGTHS | {"mem_len": 0}}, "mem_len 640, not 0"),
        ({"precision": "fp32"}, "precision bf16, not fp32"),
        ({"split_hash": "77" * 16}, "its content differs"),
        ({"corpus_hash": "77" * 16, "split_hash": "77" * 16}, "text test of wt103"),
    ],
    ids=["rule", "lengths", "precision", "content", "corpus"],
)
def test_what_measures_something_else_is_named_and_not_compared(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    one = make_compared(tmp_path / "a", nats=NATS)
    other = make_compared(tmp_path / "b", nats=NATS, result=change)
    found, text = compared(one, other)
    assert found.evaluations[0].differences == []
    assert f"test is not compared: {reason}" in text


def test_other_vocabularies_are_named(tmp_path: Path) -> None:
    one = make_compared(tmp_path / "a", result={"vocabulary_hash": "0a" * 16})
    other = make_compared(
        tmp_path / "b", vocabulary_hash="0b" * 16, result={"vocabulary_hash": "0b" * 16}
    )
    found, text = compared(one, other)
    assert found.evaluations[0].differences == []
    assert "test of wt103 (010101010101): other vocabularies, so nats per token do not" in text
    assert "warning: the vocabularies differ: nats per token do not compare" in text


def test_other_tokens_have_no_interval(tmp_path: Path) -> None:
    one = make_compared(tmp_path / "a", nats=NATS)
    other = make_compared(tmp_path / "b", nats=NATS[:-5])
    text = compared(one, other)[1]
    assert "no interval, since other tokens were scored" in text


def test_several_runs_are_compared_with_the_first(tmp_path: Path) -> None:
    runs = [make_compared(tmp_path / name, seed=i) for i, name in enumerate("abc")]
    add_result(runs[2], nats=None, step=50, checkpoint="step-00000050")
    found, text = compared(*runs)
    assert found.facts.settings == [("seed", ("0", "1", "2"))]
    assert len(found.evaluations) == len(found.partings) == 2
    assert "C − A" in text


@pytest.mark.parametrize("axis", ["step", "tokens", "hours"])
def test_curves_are_aligned_where_all_runs_have_been(tmp_path: Path, axis: str) -> None:
    one = make_compared(tmp_path / "a")
    other = make_compared(tmp_path / "b", loss_at=lambda step: 9.0 - step / 20)
    found = comparison(read([one, other]), axis=axis)  # type: ignore[arg-type]
    for curves in (found.train, found.valid):
        assert curves.places == sorted(curves.places)
        assert all(b - a == pytest.approx(1.0) for a, b in curves.losses) or axis == "hours"


def test_the_command_prints_text_or_json_and_refuses_what_it_cannot_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (make_compared(tmp_path / name, nats=NATS) for name in "ab")
    assert exit_code(monkeypatch, "compare", one, other, "--by", "tokens") == Exit.DONE
    assert capsys.readouterr().out.startswith("A = a\nB = b\n")
    assert exit_code(monkeypatch, "compare", one, other, "--json") == Exit.DONE
    values = json.loads(capsys.readouterr().out)
    assert values["first_difference"]["B"]["train"]["step"] is None
    assert values["evaluations"]["B"]["differences"][0]["interval"] == [0.0, 0.0]
    assert values == json.loads(json.dumps(to_json(compared(one, other)[0])))
    for argv, why in (((one,), "two or more runs"), ((one, tmp_path), "cannot be compared: not")):
        assert exit_code(monkeypatch, "compare", *argv) == Exit.BAD_INPUT
        assert why in capsys.readouterr().err


def test_runs_without_records_in_common_are_compared_as_far_as_they_go(tmp_path: Path) -> None:
    one, other = (make_compared(tmp_path / name) for name in "ab")
    (other / "metrics.jsonl").write_text("")
    (other / "config.json").unlink()
    text = compared(one, other)[1]
    assert "no record of the same steps" in text
    assert "not read: " in text


def test_hostile_names_and_values_stay_in_their_lines(tmp_path: Path) -> None:
    one = make_compared(tmp_path / "a")
    other = make_compared(tmp_path / "b\nA = forged\x1b[31m\u202e")
    (other / "environment.json").write_text(json.dumps({"commit": "x\nA = forged\x1b"}))
    text = compared(one, other)[1]
    assert not any(line.startswith("A = forged") for line in text.splitlines())
    assert all(line.isprintable() for line in text.split("\n"))
