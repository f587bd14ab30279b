"""Facts that ranks learn of a step: who asks to stop, its loss, and which streams were not finite.

No step waits for it. The nats of each stream are copied off the device during the next step; their
sum, and whether all were finite, is exchanged over gloo during the step after it, when all ranks
act. Only if a stream was not finite are the streams exchanged, too.

A checkpoint keeps what is under way at its step, so a run that goes on from it learns of the same
steps at the same time as one that was never stopped.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from trainer.data.streams import Streams
from trainer.distributed import Agreement, World, gather_objects
from trainer.engine.host_copy import HostCopy
from trainer.training.ending.stopping import Wish

#: After so many steps all ranks know of a step's loss.
STEPS_LATE = 2


class Known(NamedTuple):
    """The outcome of a step, as all ranks know it."""

    loss: float | None
    """Mean nats per token over all ranks; None if it was not finite, or if there was no step."""
    bad_streams: list[int]
    """Global ids of the streams whose loss was not finite."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome that all ranks have agreed on."""

    wish: Wish
    """The strongest request to stop."""
    known: Known | None
    """The outcome of the step before the last `STEPS_LATE`; None if there was no such step."""

    @property
    def bad_streams(self) -> list[int]:
        """Return the streams whose loss was not finite in that step."""
        return [] if self.known is None else self.known.bad_streams


class FaultWatch:
    """A carrier of each step's words to later steps; `drain` empties it for a rollback."""

    def __init__(self, streams: Streams, world: World) -> None:
        self._streams, self._world = streams, world
        self._ids = [int(s) for slot in range(streams.slots) for s in streams.stream_ids(slot)]
        # How many ranks wish what, how many have bad streams, and the nats.
        self._agreement = Agreement(world, len(Wish) + 1, adds=True)
        self._copy: tuple[HostCopy, int] | None = None
        """The nats of the last step's streams, and its number of targets."""
        self._posted_tokens = 0
        """The number of targets of the step of which the words under way speak; 0 is no step."""
        self._bad: list[int] = []
        """This rank's streams that the words under way speak of."""
        self._known: deque[Known] = deque()
        self._wish = Wish.NONE

    def exchange(self, wish: Wish, nats_S: Tensor, *, n_tokens: int) -> Verdict:
        """Post this step's words, and return what was agreed on for earlier steps. Collective.

        Args:
            wish: this rank's request.
            nats_S: the sum of nats of each of this rank's streams, slot after slot.
            n_tokens: the step's targets over all ranks.
        """
        self._take()
        agreed, self._wish = self._wish, Wish.NONE
        known = self._known.popleft() if self._known else None
        self._post(wish)
        self._copy = HostCopy(nats_S), n_tokens
        return Verdict(wish=agreed, known=known)

    def under_way(self) -> list[Known]:
        """Return the outcomes that no verdict has told yet, up to the last step's. Collective.

        Later verdicts tell them all the same. Waits for the device.
        """
        self._take()
        self._post(Wish.NONE)
        self._take()
        while len(self._known) < STEPS_LATE:  # a verdict comes so many steps late from the first
            self._known.appendleft(Known(None, []))
        return list(self._known)

    def load(self, known: Iterable[Known]) -> None:
        """Have the next verdicts tell what was under way at a checkpoint."""
        self._known = deque(known)

    def drain(self) -> None:
        """Wait for words under way, and forget them. Collective."""
        self._take()
        self._copy, self._wish = None, Wish.NONE  # who wishes something says so again
        self._known.clear()

    def ranks_of(self, streams: list[int]) -> list[int]:
        """Return the ranks that read these streams."""
        per_slot = self._world.world_size * self._streams.micro
        return sorted({stream % per_slot // self._streams.micro for stream in streams})

    def _post(self, wish: Wish) -> None:
        """Start to exchange a request, and the outcome of the last step if it is not known."""
        nats: list[float] = []
        self._posted_tokens = 0
        if self._copy is not None:
            copy, self._posted_tokens = self._copy
            nats = copy.read().tolist()  # begun a step ago
        self._copy = None
        self._bad = [s for s, x in zip(self._ids, nats, strict=False) if not math.isfinite(x)]
        asked = [float(wish is one) for one in Wish if one is not Wish.NONE]
        self._agreement.post([*asked, float(bool(self._bad)), math.nan if self._bad else sum(nats)])

    def _take(self) -> None:
        """Note what was agreed on since the last call."""
        *asked, n_bad, nats = self._agreement.take()
        n_tokens, self._posted_tokens = self._posted_tokens, 0
        wishes = [one for one in Wish if one is not Wish.NONE]
        self._wish = max([self._wish, *(one for one, n in zip(wishes, asked, strict=True) if n)])
        bad = gather_objects(self._bad, self._world) if n_bad else []
        self._bad = []
        if n_tokens:
            loss = nats / n_tokens if math.isfinite(nats) else None
            self._known.append(Known(loss, sorted(s for own in bad for s in own)))
