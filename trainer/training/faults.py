"""Two words that all ranks act on together: a request to stop, and that a loss was not finite.

No step waits for them. The flags that say which streams had a finite loss are copied off the device
during the next step, and whether all were set is exchanged over gloo during the step after it, when
all ranks act. Only if one was not are the streams exchanged, too.
"""

from dataclasses import dataclass

from torch import Tensor

from trainer.data.streams import Streams
from trainer.distributed import Agreement, World, gather_objects
from trainer.engine.host_copy import HostCopy
from trainer.training.stopping import Wish

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
    """A carrier of each step's words to later steps; `drain` empties it for a rollback."""

    def __init__(self, streams: Streams, world: World) -> None:
        self._streams, self._world = streams, world
        self._ids = [int(s) for slot in range(streams.slots) for s in streams.stream_ids(slot)]
        self._agreement = Agreement(world, 2)
        self._copy: HostCopy | None = None
        self._bad: list[int] = []
        """This rank's streams that the words under way speak of."""

    def exchange(self, wish: Wish, finite_S: Tensor) -> Verdict:
        """Post this step's words, and return what was agreed on for earlier steps. Collective."""
        agreed, is_bad = self._agreement.take()
        bad = gather_objects(self._bad, self._world) if is_bad else []
        known = [] if self._copy is None else self._copy.read().tolist()  # begun a step ago
        self._bad = [s for s, finite in zip(self._ids, known, strict=False) if not finite]
        self._agreement.post([int(wish), int(bool(self._bad))])
        self._copy = HostCopy(finite_S)
        return Verdict(wish=Wish(agreed), bad_streams=sorted(s for own in bad for s in own))

    def drain(self) -> None:
        """Wait for words under way, and forget them. Collective."""
        self._agreement.take()
        self._copy = None

    def ranks_of(self, streams: list[int]) -> list[int]:
        """Return the ranks that read these streams."""
        per_slot = self._world.world_size * self._streams.micro
        return sorted({stream % per_slot // self._streams.micro for stream in streams})
