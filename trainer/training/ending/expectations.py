"""Judging a finished run by the results that ``--expect`` names."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from trainer.config.run_settings import ExpectConfig
from trainer.track.measure import Measure
from trainer.track.perplexity import MOST_NATS, perplexity

_log = logging.getLogger(__name__)


def missed(
    expect: ExpectConfig,
    result: Mapping[str, Any],
    *,
    best_of: Measure | None,
    of: Measure | None,
) -> list[str]:
    """Return the targets that a run's result misses; log a line for each target.

    Only one rank may judge, because each rank times its steps itself.

    Args:
        expect: the targets.
        result: the run's result, as in `status.json`.
        best_of: what the result's best loss measures; None if unknown.
        of: what validations measure by this start's settings; the best loss counts as missing if
            it measures anything else.
    """
    loss, rate = (_number(result, name) for name in ("valid/best_loss", "throughput/tokens_per_s"))
    targets: list[tuple[str, bool]] = []
    if expect.ppl is not None:
        got = "none" if loss is None else f"{perplexity(min(loss, MOST_NATS)):,.3f}"
        if best_of is not None and of is not None and best_of.key != of.key:
            got, loss = f"none on {of}: {got} is on {best_of}", None
        is_met = loss is not None and loss <= math.log(expect.ppl)
        targets.append((f"ppl ≤ {expect.ppl:,.3f}, got {got}", is_met))
    if expect.tokens_per_s is not None:
        got = "none" if rate is None else f"{rate:,.1f}"
        is_met = rate is not None and rate >= expect.tokens_per_s
        targets.append((f"tokens_per_s ≥ {expect.tokens_per_s:,.1f}, got {got}", is_met))
    for what, is_met in targets:
        _log.info("expected %s: %s", what, "met" if is_met else "missed")
    return [what for what, is_met in targets if not is_met]


def _number(result: Mapping[str, Any], name: str) -> float | None:
    value = result.get(name)
    return float(value) if isinstance(value, float | int) and math.isfinite(value) else None
