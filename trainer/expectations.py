"""What ``--expect`` holds a run to once it is done."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from trainer.run_settings import ExpectConfig

_log = logging.getLogger(__name__)


def missed(expect: ExpectConfig, result: Mapping[str, Any]) -> list[str]:
    """The targets that a run's `result` (as in `status.json`) misses; logs a line for each target.

    Ranks time their steps themselves: only one may judge.
    """
    loss, rate = result.get("valid/best_loss"), result.get("throughput/tokens_per_s")
    told: list[tuple[str, bool]] = []
    if expect.ppl is not None:
        got = "none" if loss is None else f"{math.exp(min(loss, 700)):,.3f}"
        is_met = loss is not None and loss <= math.log(expect.ppl)
        told.append((f"ppl ≤ {expect.ppl:,.3f}, got {got}", is_met))
    if expect.tokens_per_s is not None:
        got = "none" if rate is None else f"{rate:,.1f}"
        is_met = rate is not None and rate >= expect.tokens_per_s
        told.append((f"tokens_per_s ≥ {expect.tokens_per_s:,.1f}, got {got}", is_met))
    for what, is_met in told:
        _log.info("expected %s: %s", what, "met" if is_met else "missed")
    return [what for what, is_met in told if not is_met]
