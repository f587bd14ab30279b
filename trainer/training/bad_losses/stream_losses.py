"""The nats of every stream in the last steps, kept on the device until they are asked for.

Keeping them costs a step nothing: the copies that the loop makes of a step's nats are made here.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: Steps whose losses are kept.
N_STEPS = 100


class StreamLosses:
    """A ring of the last `N_STEPS` steps' nats, `[N_STEPS, S]` for this rank's S streams."""

    def __init__(self, n_streams: int, device: torch.device) -> None:
        """Make place on the device."""
        self._nats = torch.zeros(N_STEPS, n_streams, device=device)
        self._steps = [0] * N_STEPS

    def keep(self, step: int, nats_of_slots: Sequence[Tensor]) -> Tensor:
        """Keep a step's nats, slot after slot; return where they lie, `[S]`, for `N_STEPS` steps.

        Args:
            step: the number of the step, from 1.
            nats_of_slots: per slot, the sums of nats of its streams.
        """
        nats_S = self._nats[step % N_STEPS]
        torch.cat(list(nats_of_slots), out=nats_S)
        self._steps[step % N_STEPS] = step
        return nats_S

    def clear(self) -> None:
        """Forget all steps, since some are to be done again."""
        self._steps = [0] * N_STEPS

    def read(self) -> tuple[list[int], np.ndarray]:
        """Return the steps that are kept, ascending, and their nats, `[steps, S]`; waits."""
        places = sorted((step, place) for place, step in enumerate(self._steps) if step)
        nats = self._nats.cpu().numpy()
        return [step for step, _ in places], nats[[place for _, place in places]]
