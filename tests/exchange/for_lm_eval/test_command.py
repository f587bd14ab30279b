"""`txl lm-eval` says what it takes, and refuses in one line what it cannot do."""

import sys
from pathlib import Path
from typing import Any

import pytest
from txl_command import exit_code

from trainer.errors import InputError
from trainer.exchange.for_lm_eval.arguments import Arguments

ASKED = ("lm-eval", "--model", "txl", "--model_args", "run=x", "--tasks", "lambada")


def test_its_help_tells_every_argument_of_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, "lm-eval", "--help") == 0
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in Arguments.model_fields)


def test_without_lm_eval_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert exit_code(monkeypatch, *ASKED) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "to run the tasks of lm-eval takes lm_eval, which cannot be imported" in line
    assert line.endswith("install the extra lm-eval (pip install lm_eval)")


def test_arguments_are_taken_as_lm_eval_hands_them_over() -> None:
    given = {"run": 7, "checkpoint": 500, "batch_size": "auto:4", "max_batch_size": None}
    asked = Arguments.of({**given, "mem_len": 64, "device": "cuda:1"})
    assert (asked.run, asked.checkpoint, asked.batch_size) == (Path("7"), "500", None)
    assert asked.lengths()["mem_len"] == 64
    assert Arguments.of({"run": "~/x", "batch_size": "3"}).batch_size == 3


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "run is missing"),
        ({"run": "x", "chekpoint": "best"}, "unknown key chekpoint (did you mean 'checkpoint'?)"),
        ({"run": "x", "precision": "int8"}, "precision: input should be"),
        ({"run": "x", "mem_len": "long"}, "mem_len: input should be a valid integer"),
        ({"run": "x", "device": "mps"}, "device: string should match pattern"),
    ],
)
def test_wrong_arguments_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as refused:
        Arguments.of(given)
    assert str(refused.value).startswith(f"--model_args of the model txl: {told}")
