"""Tokens are read back as they were filed, or refused."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from reported_runs import RESULT

from trainer.errors import InputError
from trainer.track.run_files.results import EvalResult, file_result
from trainer.track.run_files.token_files import (
    FIELDS,
    exact_loss,
    file_tokens,
    read_tokens,
    tokens_path,
)

N = 1000


def result_of(tokens: np.ndarray) -> EvalResult:
    values = {**RESULT, "loss": exact_loss(tokens), "n_tokens": len(tokens)}
    return EvalResult.model_validate(values)


@pytest.fixture
def tokens() -> np.ndarray:
    table = np.zeros(N, FIELDS)
    table["position"] = np.arange(1, N + 1)
    table["since_empty"] = table["position"]
    table["nats"] = np.random.default_rng(1).gamma(2.0, 2.0, N)
    return table


def test_what_was_filed_is_read(tmp_path: Path, tokens: np.ndarray) -> None:
    result = result_of(tokens)
    file_result(tmp_path, result)
    assert read_tokens(tmp_path, result) is None
    for _ in range(2):  # the second replaces the first
        path = file_tokens(tmp_path, result, tokens)
    found = read_tokens(tmp_path, result)
    assert found is not None
    assert found.tobytes() == tokens.tobytes()
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".json", ".npy"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nats", np.nan),
        ("nats", np.inf),
        ("since_empty", 0),
        ("train_count", -2),
        ("train_count", 1 << 62),
        ("position", 0),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    tmp_path: Path, tokens: np.ndarray, field: str, value: float
) -> None:
    result = result_of(tokens)
    file_result(tmp_path, result)
    tokens[field][[3, 5]] = value
    file_tokens(tmp_path, result, tokens)
    with pytest.raises(InputError, match="holds numbers that no evaluation gives"):
        read_tokens(tmp_path, result)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': __import__('os')}"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: np.save(path, np.zeros(3)),
        lambda path: np.save(path, np.zeros(0, FIELDS)),
        lambda path: np.save(path, np.zeros(N, FIELDS)),
        lambda path: np.save(path, np.array([{}]), allow_pickle=True),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["empty", "code", "cut", "floats", "none", "other", "pickled", "pipe", "folder"],
)
def test_what_is_no_file_of_the_results_tokens_is_refused(
    tmp_path: Path, tokens: np.ndarray, spoil: Callable[[Path], object]
) -> None:
    result = result_of(tokens)
    file_result(tmp_path, result)
    spoil(file_tokens(tmp_path, result, tokens))
    with pytest.raises(InputError) as refusal:
        read_tokens(tmp_path, result)
    assert str(tokens_path(tmp_path, result)) in str(refusal.value)
    assert "\n" not in str(refusal.value)
