"""The table of families shows each at its best rate, the best first."""

from typing import Any

import pytest
from training import ROOT


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks" / "recurrent"))
    import families

    return families


def result(kind: str, rate: float, loss: float) -> dict[str, Any]:
    return {
        "kind": kind,
        "rate": rate,
        "loss": loss,
        "parameters": 1000,
        "updates": 10,
        "cpu_s": 5.0,
    }


def test_a_kind_is_shown_at_its_best_rate_and_the_best_kind_first(families: Any) -> None:
    found = families.table(
        [
            result("lstm", 1e-3, 5.0),
            result("lstm", 1e-3, 5.2),
            result("lstm", 3e-3, 4.0),
            result("lstm", 3e-3, 6.4),
            result("gla", 3e-3, 4.5),
        ]
    )
    assert found.splitlines()[2:] == [
        "| `gla` | 1,000 | 0.003 | 10 | **4.500** | 4.500–4.500 | 5 |",
        "| `lstm` | 1,000 | 0.001 | 10 | **5.100** | 5.000–5.200 | 5 |",
    ]


def test_every_kind_reads_as_many_tokens(families: Any) -> None:
    trials = [families.Trial(kind, 1, None, 512_000) for kind in families.KINDS]
    assert {(trial.n_updates, trial.warmup) for trial in trials} == {(500, 25)}
