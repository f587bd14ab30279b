"""A tensor's values on their way from the device to the host."""

import torch
from torch import Tensor


class HostCopy:
    """A copy of a small tensor that is begun now and read later, mostly without a wait."""

    def __init__(self, tensor: Tensor) -> None:
        """Begin to copy what the device will have computed by now."""
        self._arrival: torch.cuda.Event | None = None
        if tensor.device.type == "cpu":
            self._copy = tensor
            return
        self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._copy.copy_(tensor, non_blocking=True)
        self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's stub
        self._arrival.record()

    def read(self) -> Tensor:
        """Return the copy, on the host; wait until it is there."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._copy
