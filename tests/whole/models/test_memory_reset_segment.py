"""With `memory_reset: segment` every segment is read as if it were the first."""

from pathlib import Path

import pytest
from training import Case, begun_from, checkpoint_hashes, losses, run_cases

EXACT = [
    "--model.dropout",
    "0",
    "--train.max-steps",
    "12",
    "--checkpoint.interval-steps",
    "8",
    "--checkpoint.keep-last",
    "9",
]
RESET = ["--data.memory-reset", "segment"]
#: What is trained, by name: flags beside `EXACT`.
CASES = {
    "no memory": ["--train.mem-len", "0"],
    "reset": RESET,
    "in slots": [*RESET, "--train.train-micro-batch-size-per-gpu", "2"],
    "captured": [*RESET, "--model.cutoffs", "--train.cuda-graph", "on"],
    "not captured": [*RESET, "--model.cutoffs"],
    "dropped": [*RESET, "--model.dropout", "0.2"],
    "carried": [],
}


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the runs of `CASES`, and one that goes on from the checkpoint of another."""
    folder = tmp_path_factory.mktemp("reset")
    cases = {name: Case(folder / name, flags=EXACT + more) for name, more in CASES.items()}
    run_cases(list(cases.values()), corpus=corpus, n_ranks=1)
    resumed = begun_from(folder / "dropped", 8, folder / "resumed")
    cases["resumed"] = Case(resumed, flags=EXACT + CASES["dropped"])
    run_cases([cases["resumed"]], corpus=corpus, n_ranks=1)
    return {name: case.run_dir for name, case in cases.items()}


def test_losses_are_those_without_memory(runs: dict[str, Path]) -> None:
    without = losses(runs["no memory"])
    assert losses(runs["reset"]) == pytest.approx(without, rel=1e-5)
    assert losses(runs["in slots"]) == pytest.approx(without, rel=1e-5)
    carried = losses(runs["carried"])
    assert max(abs(carried[step] / without[step] - 1) for step in without) > 1e-3


def test_a_resumed_run_is_the_run_bit_by_bit(runs: dict[str, Path]) -> None:
    whole, resumed = runs["dropped"], runs["resumed"]
    assert losses(resumed) == {step: x for step, x in losses(whole).items() if step > 8}
    assert checkpoint_hashes(resumed, 12) == checkpoint_hashes(whole, 12)


def test_a_micro_step_is_captured_though_its_memory_grows(runs: dict[str, Path]) -> None:
    assert losses(runs["captured"]) == losses(runs["not captured"])
    assert " tokens is captured" in (runs["captured"] / "logs/rank-00000.log").read_text()
