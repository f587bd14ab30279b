"""What a plan says of memory is what a real run takes, within a quarter; see the benchmark."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["layers"])
def test_a_run_takes_what_was_planned(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import plan_memory

    setting = plan_memory.SETTINGS[name]
    planned, measured = plan_memory.compare(setting, tmp_path, {})
    assert measured > 200 << 20
    assert planned == pytest.approx(measured, rel=0.25)
