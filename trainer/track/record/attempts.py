"""The attempts of a run: which of them did a step last.

After a resume or a rollback some steps are done again. Of these only the latest attempt counts.
"""

import heapq
from bisect import bisect_right
from collections.abc import Mapping


class AttemptSteps:
    """The steps that each attempt did, from where it resumed to the last that it recorded."""

    def __init__(self) -> None:
        """Begin without any attempt."""
        self._resumed_at: dict[int, int] = {}
        self._least: dict[int, int] = {}
        self._most: dict[int, int] = {}

    def resumed(self, attempt: int, step: int) -> None:
        """Note that `attempt` resumed from `step`; only the first such event of it counts."""
        self._resumed_at.setdefault(attempt, step)

    def recorded(self, attempt: int, step: int) -> None:
        """Note that `attempt` recorded `step`."""
        self._least[attempt] = min(step, self._least.get(attempt, step))
        self._most[attempt] = max(step, self._most.get(attempt, step))

    def ranges(self) -> dict[int, range]:
        """Return the steps of each attempt."""
        return {
            attempt: range(self._resumed_at.get(attempt, self._least[attempt] - 1) + 1, most + 1)
            for attempt, most in self._most.items()
        }


class LastAttempts:
    """The last attempt that did each step: `attempts[i]` from `begins[i]` on, 0 where none did."""

    def __init__(self, done: Mapping[int, range]) -> None:
        """Find it from the steps that each attempt did."""
        waiting = sorted((r.start, r.stop, attempt) for attempt, r in done.items() if r)
        self.begins = sorted({bound for start, stop, _ in waiting for bound in (start, stop)})
        self.attempts: list[int] = []
        doing: list[tuple[int, int]] = []
        waiting.reverse()
        for begin in self.begins:
            while waiting and waiting[-1][0] <= begin:
                _, stop, attempt = waiting.pop()
                heapq.heappush(doing, (-attempt, stop))
            while doing and doing[0][1] <= begin:
                heapq.heappop(doing)
            self.attempts.append(-doing[0][0] if doing else 0)

    def at(self, step: int) -> int:
        """Return the last attempt that did `step`; 0 if none did."""
        place = bisect_right(self.begins, step) - 1
        return self.attempts[place] if place >= 0 else 0
