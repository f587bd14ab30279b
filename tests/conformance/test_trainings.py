"""The command checks a model in real trainings too, and tells what it found by table and code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from readme_model import write_readme_model
from training import ROOT, environment
from txl_command import exit_code, said_in

from trainer.config.command_line.flags import changed
from trainer.config.recipe import load_recipe
from trainer.conformance.checks import CHECKS
from trainer.conformance.trainings import TRAININGS, trained
from trainer.errors import Exit

BROKEN = "broken_models:build_WrongReach"


def test_the_readmes_model_passes_all_of_it(tmp_path: Path) -> None:
    folder = write_readme_model(tmp_path).parent
    argv = ["check-model", "lstm:build", "--model.options.width", "16"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "txl_trainer.py"), *argv],
        env=environment(PYTHONPATH=str(folder)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.DONE, done.stdout + done.stderr
    *rows, last = done.stdout.splitlines()
    assert rows == [f"{name:24}  holds" for name in (*CHECKS, *TRAININGS)]
    assert last == f"all {len(rows)} checks hold"


def test_a_state_that_no_checkpoint_holds_makes_another_run_of_a_resumed_one() -> None:
    experiment = changed(
        load_recipe("quickstart"), {"model.factory": "broken_models:build_HiddenGlobal"}
    )
    results = trained(experiment, environ=dict(os.environ))
    first = next(results)
    results.close()
    assert first.name == "resume bitwise"
    assert first.finding is not None
    assert "resumed after step 2 of 6" in first.finding.input
    assert first.finding.seen.startswith("the loss of step 3 is ")


def test_a_training_that_is_refused_is_told_by_every_check() -> None:
    experiment = changed(
        load_recipe("quickstart"), {"model.factory": "broken_models:build_GrowingState"}
    )
    results = list(trained(experiment, environ=dict(os.environ)))
    assert [one.name for one in results] == list(TRAININGS)
    for one in results:
        assert one.finding is not None
        assert "memory was 4×6 in float32 and is 4×12" in one.finding.seen


def test_the_command_shows_the_smallest_input_and_why_it_matters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = said_in("utf-8", monkeypatch, "check-model", BROKEN, "--fast")
    assert ended.code == Exit.UNFIT
    at = ended.out.index("reach                     DOES NOT HOLD\n")
    told = [line.strip() for line in ended.out[at:].splitlines()[1:4]]
    assert told[0] == "segment 3 of a text, warmed by 1 before it, mem_len 0, tgt_len 2"
    assert told[1].startswith("reach says 1, and token 1 has ")
    assert told[2] == f"why it matters: {CHECKS['reach'][1]}"
    assert ended.out.endswith("1 of 16 checks do not hold: reach\n")


def test_the_same_is_told_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ("check-model", BROKEN, "--fast", "--json")
    told = json.loads(said_in("utf-8", monkeypatch, *argv).out)
    assert told["holds"] is False
    assert [one["name"] for one in told["checks"]] == list(CHECKS)
    assert [one["name"] for one in told["checks"] if not one["holds"]] == ["reach"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "the model comes first"),
        (["rnn"], "rnn"),
        (["transformer-xl", "--model.options.width", "3"], "there is no factory"),
        ([BROKEN, "--model.options.width", "3"], "takes no options"),
        (["transformer-xl", "--fasst"], "did you mean '--fast'"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], told: str
) -> None:
    ended = said_in("utf-8", monkeypatch, "check-model", *argv)
    assert ended.code == Exit.BAD_INPUT
    assert told in ended.err


def test_a_recipe_is_checked_with_its_own_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = tmp_path / "own.json"
    values = load_recipe("quickstart").model_dump(mode="json")
    recipe.write_text(json.dumps(values | {"model": {"factory": BROKEN}}))
    assert exit_code(monkeypatch, "check-model", recipe, "--fast") == Exit.UNFIT
