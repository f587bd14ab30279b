"""A run that is done says by its exit code whether it was as good and as fast as was asked."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from builders import random_documents, write_corpus
from reported_runs import LENGTHS, OF
from saved_checkpoints import contents
from training import Case, events, run_cases

from trainer.config.run_settings import ExpectConfig
from trainer.errors import Exit
from trainer.track.measure import Measure
from trainer.track.run_files.status import Status, read_status
from trainer.training.ending.expectations import missed

FLAGS = ["--train.max-steps", "4", "--optim.warmup-steps", "1"]
VALIDATED = [*FLAGS, "--valid.interval-steps", "2"]
EASY = ["--expect.ppl", "1e9", "--expect.tokens-per-s", "1e-3"]
HARD = ["--expect.ppl", "1.5", "--expect.tokens-per-s", "1e12"]


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return directories of runs by name, and of copies of them before they ran again."""
    folder = tmp_path_factory.mktemp("expectations")
    lone = write_corpus(
        folder / "lone", vocabulary_size=600, train=random_documents(4000, vocabulary_size=600)
    ).path
    stopping = ["--model.factory", "stopping_model:build"]
    missing: dict[str, Any] = {"ends": Exit.EXPECTATION}
    refused: dict[str, Any] = {"ends": Exit.BAD_INPUT}
    cases = {
        "met": Case(folder / "met", flags=[*VALIDATED, *EASY]),
        "missed": Case(folder / "missed", flags=[*VALIDATED, *HARD], **missing),
        "slow": Case(folder / "slow", flags=[*FLAGS, *HARD[2:]], **missing),
        "unvalidated": Case(folder / "none", flags=[*FLAGS, *EASY], **refused),
        "unsplit": Case(folder / "none", flags=[*VALIDATED, *EASY], corpus=lone, **refused),
        "stopped": Case(
            folder / "stopped", flags=[*VALIDATED, *HARD, *stopping], ends=Exit.REQUEUE
        ),
    }
    told = run_cases(list(cases.values()), corpus=corpus, n_ranks=1)
    assert "expect.ppl 1e+09 needs validations" in told[0]
    assert f"--expect.ppl needs a valid split, and {lone} has none" in told[1]
    shutil.copytree(folder / "missed", folder / "before")
    again = [
        Case(folder / "missed", flags=[*VALIDATED, *HARD], **missing),
        Case(folder / "missed", flags=[*VALIDATED, *EASY]),
        Case(folder / "missed", flags=VALIDATED),
        Case(folder / "met", flags=[*VALIDATED, *EASY[:2], *HARD[2:]], **missing),
    ]
    run_cases(again, corpus=corpus, n_ranks=2)
    return {case.run_dir.name: case.run_dir for case in cases.values()} | {
        "before": folder / "before"
    }


def status_of(run_dir: Path) -> Status:
    status = read_status(run_dir)
    assert status is not None
    return status


def log_of(run_dir: Path) -> str:
    return (run_dir / "logs" / "rank-00000.log").read_text()


def test_a_run_that_meets_its_targets_is_done(runs: dict[str, Path]) -> None:
    status = status_of(runs["met"])
    assert (status.state, status.exit_code, status.reason) == ("done", Exit.DONE, None)
    assert events(runs["met"], "expectation") == []
    for target in ("ppl ≤ 1,000,000,000.000, got ", "tokens_per_s ≥ 0.0, got "):
        told = next(line for line in log_of(runs["met"]).splitlines() if target in line)
        assert told.endswith(": met")


def test_a_run_that_misses_a_target_is_done_and_says_what_it_missed(runs: dict[str, Path]) -> None:
    run_dir = runs["missed"]
    status = status_of(run_dir)
    assert (status.state, status.exit_code) == ("done", Exit.EXPECTATION)
    (event,) = events(run_dir, "expectation")
    ppl, rate = event["missed"]
    assert ppl.startswith("ppl ≤ 1.500, got ")
    assert rate.startswith("tokens_per_s ≥ 1,000,000,000,000.0, got ")
    assert status.reason == f"missed {ppl}; {rate}"
    for what in (ppl, rate):
        assert f"expected {what}: missed" in log_of(run_dir)


def test_the_rate_is_that_of_all_steps_and_the_loss_the_best(runs: dict[str, Path]) -> None:
    result = status_of(runs["missed"]).result
    assert result is not None
    path = runs["missed"] / "checkpoints" / "step-00000004" / "state.json"
    saved = json.loads(path.read_text())["train"]
    assert result["throughput/tokens_per_s"] == saved["n_tokens"] / saved["seconds"]
    assert result["valid/best_loss"] == saved["best_loss"]


def test_a_rate_needs_no_validation(runs: dict[str, Path]) -> None:
    (event,) = events(runs["slow"], "expectation")
    assert len(event["missed"]) == 1


def test_what_is_refused_leaves_no_trace(runs: dict[str, Path]) -> None:
    assert not runs["none"].exists()


def test_a_run_that_is_not_done_is_not_judged(runs: dict[str, Path]) -> None:
    assert status_of(runs["stopped"]).state == "requeue"
    assert events(runs["stopped"], "expectation") == []


def test_a_finished_run_is_judged_anew_and_left_alone(runs: dict[str, Path]) -> None:
    assert contents(runs["missed"]) == contents(runs["before"])
    log = log_of(runs["missed"])
    judged = re.findall(r" expected .*: (missed|met)\n", log)
    assert (judged.count("missed"), judged.count("met")) == (4, 2)


@pytest.mark.parametrize(
    ("result", "n_missed"),
    [
        ({"valid/best_loss": 3.0, "throughput/tokens_per_s": 10.0}, 0),
        ({"valid/best_loss": 3.1, "throughput/tokens_per_s": 10.0}, 1),
        ({"valid/best_loss": 3.0, "throughput/tokens_per_s": 9.9}, 1),
        ({"valid/best_loss": 1e6, "throughput/tokens_per_s": 0.0}, 2),
        ({"valid/best_loss": None}, 2),
        ({"valid/best_loss": "3.0", "throughput/tokens_per_s": "10"}, 2),
        ({"valid/best_loss": -math.inf, "throughput/tokens_per_s": math.inf}, 2),
    ],
)
def test_targets_are_met_on_the_line_and_missed_by_what_is_not_known(
    result: dict[str, float | str | None], n_missed: int
) -> None:
    expect = ExpectConfig(ppl=20.086, tokens_per_s=10)
    assert len(missed(expect, result, best_of=None, of=None)) == n_missed
    assert missed(ExpectConfig(), result, best_of=None, of=None) == []


def test_a_best_of_another_measure_meets_no_target() -> None:
    expect, result = ExpectConfig(ppl=20.086), {"valid/best_loss": 3.0}
    ours = Measure.model_validate(OF)
    theirs = Measure.model_validate(OF | {"settings": LENGTHS | {"mem_len": 0}})
    renamed = Measure.model_validate(OF | {"corpus": "renamed"})
    assert missed(expect, result, best_of=ours, of=renamed) == []
    (told,) = missed(expect, result, best_of=theirs, of=ours)
    assert told == f"ppl ≤ 20.086, got none on {ours}: 20.086 is on {theirs}"
