"""Losses and learning rates of thirty steps are those of the day they were written down.

They fail where PyTorch, DeepSpeed or this project computes something else than then, and say from
which step on. After a change that is meant: `python tests/benchmarks/write_golden.py --write`.
"""

import json
import math
from pathlib import Path

import pytest
from golden_losses import GOLDEN, allowed, drifts, trained
from training import KINDS

from trainer.engine.optimizers import schedules


def test_losses_and_rates_are_those_written_down(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden.keys() == {*KINDS, "lr"}
    assert drifts(trained(tmp_path), golden) == []


def test_a_rate_that_is_off_by_a_millionth_is_found_where_it_begins() -> None:
    """The formula's own factor, not only its result, is changed."""
    golden = json.loads(GOLDEN.read_text())
    form = {"lr": 3e-3, "min_lr": 0.0, "warmup_steps": 4, "max_steps": 30}
    rates = [schedules.cosine(update, **form) for update in range(1, 31)]
    assert drifts(golden | {"lr": rates}, golden) == []
    source = Path(schedules.__file__).read_text()
    assert "0.5 * (lr - min_lr)" in source
    changed: dict[str, object] = {}
    exec(source.replace("0.5 * (lr - min_lr)", "0.5000005 * (lr - min_lr)"), changed)
    wrong = [changed["cosine"](update, **form) for update in range(1, 31)]  # type: ignore[operator]
    (line,) = drifts(golden | {"lr": wrong}, golden)
    assert line.startswith("lr: from step 5 on: ")  # after warm-up
    assert "off by 1.0e-06" in line


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_the_same_is_found_at_its_step(kind: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    for step, factor in ((1, 1 + 2 * allowed(kind, 1)), (30, 1 + 2 * allowed(kind, 30))):
        losses = list(golden[kind])
        losses[step - 1] *= factor
        (line,) = drifts(golden | {kind: losses}, golden)
        assert line.startswith(f"{kind}: from step {step} on: ")
    (line,) = drifts(golden | {kind: [math.nan] * 30}, golden)
    assert "from step 1 on: nan" in line


def test_more_is_allowed_in_coarser_arithmetic_and_late_but_never_much() -> None:
    assert allowed("zero0_fp32", 1) < 4e-6 < allowed("zero1_fp16", 1) < allowed("zero1_bf16", 1)
    assert allowed("zero0_bf16_autocast", 1) == allowed("zero1_bf16", 1) < 1e-3
    assert max(allowed(kind, 30) for kind in KINDS) <= 3e-3
