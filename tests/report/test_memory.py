"""What memory bought is counted token by token, and every token is in one bin of each kind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compared_runs import add_result, make_compared
from reported_runs import LENGTHS, read

from trainer.report.memory import LEAST_TOKENS, Bought, MemoryOfRun, memory_of
from trainer.track.run_files.token_files import tokens_path

N = 5000


def with_lengths(folder: Path, nats: dict[int, np.ndarray | None], **changes: Any) -> MemoryOfRun:
    """Return what is found of a run with evaluations of these lengths of memory."""
    run = make_compared(folder, result={"split": "valid"})
    for mem_len, part in nats.items():
        settings = {"settings": LENGTHS | {"mem_len": mem_len, "same_length": mem_len > 0}}
        add_result(run, nats=part, **settings, **changes)
    return memory_of(read([run])[0])


@pytest.fixture
def nats() -> np.ndarray:
    return np.random.default_rng(2).gamma(2.0, 2.0, N).astype(np.float32).astype(np.float64)


def bought_of(found: MemoryOfRun) -> Bought:
    assert found.bought is not None
    return found.bought


def test_the_gain_is_the_mean_difference_and_the_bins_hold_every_token(
    tmp_path: Path, nats: np.ndarray
) -> None:
    less = nats - 0.25
    found = with_lengths(tmp_path / "run", {0: nats, 32: nats - 0.125, 64: less})
    bought = bought_of(found)
    assert [length.mem_len for length in found.lengths] == [0, 32, 64]
    assert bought.mem_lens == (0, 32, 64)
    assert bought.gain.mean == pytest.approx(0.25, abs=1e-6)
    for bins in (bought.by_distance, bought.by_frequency):
        assert sum(part.n_tokens for part in bins) == N
        assert all(part.gain == pytest.approx(0.25, abs=1e-5) for part in bins)
        assert all(part.n_tokens >= LEAST_TOKENS for part in bins[:-1])
        assert [part.low for part in bins[1:]] == [part.high + 1 for part in bins[:-1]]
        for number, whole in enumerate((nats, nats - 0.125, less)):
            total = sum(part.losses[number] * part.n_tokens for part in bins)
            assert total == pytest.approx(whole.sum(), rel=1e-6)


def test_a_bin_holds_the_tokens_of_its_range(tmp_path: Path, nats: np.ndarray) -> None:
    bought = bought_of(with_lengths(tmp_path / "run", {0: nats, 64: nats / 2}))
    table = bought.tokens
    for bins, column in (
        (bought.by_distance, table["since_empty"]),
        (bought.by_frequency, table["train_count"]),
    ):
        for part in bins:
            inside = (column >= part.low) & (column <= part.high)
            assert part.n_tokens == inside.sum()
            assert part.losses[0] == pytest.approx(nats[inside].mean())


@pytest.mark.parametrize(
    "lengths", [{}, {64: True}, {0: False, 64: False}, {0: True, 64: False}, {32: True, 64: True}]
)
def test_without_tokens_of_several_lengths_there_is_no_gain_by_token(
    tmp_path: Path, nats: np.ndarray, lengths: dict[int, bool]
) -> None:
    found = with_lengths(
        tmp_path / "run", {length: nats if filed else None for length, filed in lengths.items()}
    )
    assert found.bought is None
    assert len(found.lengths) == (len(lengths) if len(lengths) > 1 else 0)


def test_results_of_another_manner_are_not_mixed_in(tmp_path: Path, nats: np.ndarray) -> None:
    run = make_compared(tmp_path / "run", nats=nats)
    for mem_len, change in (
        (0, {"rule": "as fairseq"}),
        (1, {"precision": "fp32"}),
        (2, {"step": 50, "checkpoint": "step-00000050"}),
        (3, {"split": "valid", "split_hash": "03" * 16}),
        (4, {"settings": LENGTHS | {"mem_len": 4, "tgt_len": 8}}),
    ):
        add_result(run, nats=nats, **({"settings": LENGTHS | {"mem_len": mem_len}} | change))
    assert memory_of(read([run])[0]) == MemoryOfRun() or not memory_of(read([run])[0]).lengths


def test_counts_that_are_not_known_make_no_bins_by_frequency(
    tmp_path: Path, nats: np.ndarray
) -> None:
    run = make_compared(tmp_path / "run", result={"split": "valid"})
    for mem_len in (0, 64):
        result = add_result(run, nats=nats, settings=LENGTHS | {"mem_len": mem_len})
        path = tokens_path(run, result)
        table = np.load(path)
        table["train_count"] = -1
        np.save(path, table)
    bought = bought_of(memory_of(read([run])[0]))
    assert bought.by_frequency == []
    assert bought.by_distance


def test_broken_files_of_tokens_are_noted(tmp_path: Path, nats: np.ndarray) -> None:
    run = make_compared(tmp_path / "run", result={"split": "valid"})
    for mem_len in (0, 64):
        result = add_result(run, nats=nats, settings=LENGTHS | {"mem_len": mem_len})
    tokens_path(run, result).write_bytes(b"no")
    found = memory_of(read([run])[0])
    assert found.bought is None
    assert "no file of tokens" in found.notes[0]
