"""Estimating when a run ends: its steps, and the pauses between them that are still to come."""

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

#: The speed of steps is taken over so many records.
ETA_WINDOW = 50


class Pause(NamedTuple):
    """The steps after which a run pauses, for example to validate."""

    interval_steps: int
    """0 is never between steps."""
    at_end: bool
    """True if it also comes after the last step."""

    def n_to_come(self, *, done_step: int, last_step: int) -> int:
        """Return how often the run still pauses if it has up to `done_step`, until `last_step`."""
        if done_step >= last_step:
            return 0
        n = self.interval_steps
        between = last_step // n - done_step // n if n else 0
        ends_between = n > 0 and last_step % n == 0
        return between + (self.at_end and not ends_between)


class Eta:
    """An estimate of the seconds until the end of a run.

    Steps count with the speed of the last records, without pauses. A pause to come counts with the
    seconds of the last one of its name; a pause that never came yet counts nothing.
    """

    def __init__(
        self, *, max_steps: int, update: int, pauses: Mapping[str, Pause], now_s: float
    ) -> None:
        """Start at `update`, at the reading `now_s` of a clock."""
        self._max_steps, self._pauses = max_steps, pauses
        self._seen: deque[tuple[int, float]] = deque([(update, now_s)], maxlen=ETA_WINDOW)
        self._paused_s = 0.0
        self._took_s: dict[str, float] = {}
        self._paused_at: dict[str, int] = {}

    def record(self, update: int, *, now_s: float) -> None:
        """Note that the run is at `update` now."""
        if update < self._seen[-1][0]:
            self._seen.clear()  # after a rollback the old speed counts no more
        self._seen.append((update, now_s - self._paused_s))

    def paused(self, name: str, seconds: float, *, step: int) -> None:
        """Note a pause at `step` that took `seconds`."""
        self._paused_s += seconds
        self._took_s[name], self._paused_at[name] = seconds, step

    def left_s(self, *, step: int, update: int) -> float | None:
        """Return the seconds from `step` to the end; None while the speed is unknown.

        Pauses of `step` itself are still to come, unless they were noted.
        """
        (first_update, first_s), (seen_update, seen_s) = self._seen[0], self._seen[-1]
        if seen_update == first_update:
            return None
        steps_s = (self._max_steps - update) * (seen_s - first_s) / (seen_update - first_update)
        last_step = self._max_steps + step - update  # a skipped step does not count
        pauses_s = sum(
            self._took_s.get(name, 0.0)
            * pause.n_to_come(
                done_step=step if self._paused_at.get(name) == step else step - 1,
                last_step=last_step,
            )
            for name, pause in self._pauses.items()
        )
        return steps_s + pauses_s
