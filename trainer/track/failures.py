"""Telling of failures that may come at every step, as on a full disk, without a flood of lines."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds in which a kind of failure is told once; they double each time, up to the most.
FIRST_S, MOST_S = 60.0, 3600.0

_log = logging.getLogger(__name__)


@dataclass
class _Kind:
    """The failures of one kind so far."""

    quiet_s: float
    told_at: float
    n_untold: int = 0


class Failures:
    """A teller of failures: a line at the first of a kind, then at growing intervals.

    A kind that has not failed for longer than its interval begins anew.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without any failure."""
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}
        self._seen_at: dict[str, float] = {}

    def tell(self, kind: str, what: str) -> bool:
        """Log a failure unless one of its kind was logged a while ago; return whether it was."""
        now = self._clock()
        last_seen = self._seen_at.get(kind, now)
        self._seen_at[kind] = now
        known = self._kinds.get(kind)
        if known is None or now - last_seen > known.quiet_s:
            self._kinds[kind] = _Kind(FIRST_S, now)
            _log.error("%s", what)
            return True
        if now - known.told_at < known.quiet_s:
            known.n_untold += 1
            return False
        more = f" (and {known.n_untold:,} times since this was last said)"
        known.quiet_s, known.told_at = min(MOST_S, 2 * known.quiet_s), now
        said, known.n_untold = what + (more if known.n_untold else ""), 0
        _log.error("%s", said)
        return True
