"""At stage 3 a rank holds, reads, writes and sends no more than its parts of a model."""

from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1]
#: What libraries and the largest parameters take beside a small model, as a part of it.
SLACK = 0.5


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import large_model

    return large_model


def test_no_rank_holds_the_whole_model(benchmark: Any, tmp_path: Path) -> None:
    sizes = {**benchmark.LARGE, "n_layer": 4}
    told = benchmark.measure(sizes, benchmark.N_WORDS["large"], tmp_path, n_ranks=2)
    assert told["parameters"] > 50e6
    for moment in ("start", "save", "load"):
        assert told[f"owned at {moment}"] > 0
        assert benchmark.beyond(told, moment) < SLACK


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_bytes_are_those_of_the_formulas(benchmark: Any, n_ranks: int) -> None:
    shapes = benchmark.shapes_of(benchmark.SMALL, benchmark.N_WORDS["small"])
    expected = benchmark.Expected(shapes=shapes, n_ranks=n_ranks, itemsize=4)
    told = benchmark.counts(n_ranks)
    hashed = sum(rank["load"]["hashed"] for rank in told)
    assert hashed == told[0]["files"] - told[0]["manifest"]
    assert max(rank["load"]["hashed"] for rank in told) < 1.05 * hashed / n_ranks
    for rank in told:
        assert rank["parameters"] == expected.n_parameters
        assert rank["start"]["sent"] == pytest.approx(expected.sent_at_start, rel=0.01, abs=1000)
        assert rank["start"]["read"] == 0
        assert rank["save"]["written"] == pytest.approx(expected.own, rel=0.02)
        assert rank["save"]["read"] == 0
        assert rank["save"]["sent"] < 2 * expected.index_bytes() + 4096
        assert rank["load"]["read"] == pytest.approx(expected.own, rel=0.01)
        assert rank["load"]["sent"] < 16384
