"""Flags that all ranks act on together: requests to stop, and losses that are not finite.

No step waits for the flags. Those that say which streams had a finite loss are copied off the
device during the next step, and exchanged over gloo during the step after it, when all ranks act.
"""

from dataclasses import dataclass

from torch import Tensor

from trainer.data.streams import Streams
from trainer.distributed import Agreement, World
from trainer.engine.host_copy import HostCopy
from trainer.train.stopping import Wish

#: After so many steps all ranks know of a loss that was not finite.
STEPS_LATE = 2


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome that all ranks have agreed on."""

    wish: Wish
    """The strongest request to stop."""
    bad_streams: list[int]
    """Global ids of the streams whose loss was not finite, `STEPS_LATE` steps ago."""


class FaultWatch:
    """A carrier of each step's flags to later steps; `drain` empties it for a rollback."""

    def __init__(self, streams: Streams, world: World) -> None:
        self._streams, self._world = streams, world
        self._ids = [int(s) for slot in range(streams.slots) for s in streams.stream_ids(slot)]
        self._agreement = Agreement(world, 1 + streams.train_batch_size)
        self._copy: HostCopy | None = None

    def exchange(self, wish: Wish, finite_S: Tensor) -> Verdict:
        """Post this step's flags, and return what was agreed on for earlier steps. Collective."""
        agreed = self._agreement.take()
        flags = [int(wish)] + [0] * self._streams.train_batch_size
        known = [] if self._copy is None else self._copy.read().tolist()  # begun a step ago
        for stream, finite in zip(self._ids, known, strict=False):
            flags[1 + stream] = int(not finite)
        self._agreement.post(flags)
        self._copy = HostCopy(finite_S)
        return Verdict(
            wish=Wish(agreed[0]), bad_streams=[s for s, bad in enumerate(agreed[1:]) if bad]
        )

    def drain(self) -> None:
        """Wait for flags under way, and forget them. Collective."""
        self._agreement.take()
        self._copy = None

    def ranks_of(self, streams: list[int]) -> list[int]:
        """Return the ranks that read these streams."""
        per_slot = self._world.world_size * self._streams.micro
        return sorted({stream % per_slot // self._streams.micro for stream in streams})
