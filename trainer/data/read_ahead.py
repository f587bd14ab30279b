"""Reading segments ahead, so that they are on the device before they are asked for.

The segments of a micro step are a pure function of the micro step's number. So reading ahead is
only a cache: any can be asked for, also after a rollback has moved the position in the text.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch

from trainer.data.streams import Streams
from trainer.protocol import Segment

#: Micro steps read ahead, by kind of device: a GPU computes one while the next is on its way. On a
#: CPU the thread would cost what it saves, a thousandth of a small model's step.
AHEAD = {"cuda": 2, "cpu": 0}


class _Sent(NamedTuple):
    """The segments of a micro step on their way to the device."""

    segments: tuple[Segment, ...]
    arrival: torch.cuda.Event | None
    """The event for which later work on the GPU waits; None on the CPU."""


class SegmentReader:
    """A reader of one rank's segments, with a thread that reads those of coming micro steps."""

    def __init__(self, streams: Streams, device: torch.device, *, n_ahead: int) -> None:
        """Read ahead of the last micro step asked for by at most `n_ahead` others."""
        self._streams, self._device, self._n_ahead = streams, device, n_ahead
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._begun: dict[int, Future[_Sent]] = {}
        self._side: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's

    def segments(self, data_step: int, slot: int) -> tuple[Segment, ...]:
        """Return the segments of `slot` in `data_step`, on the device; raise errors of the thread.

        The host does not wait for the copy; later work on the GPU does.
        """
        number = data_step * self._streams.slots + slot
        wanted = range(number, number + 1 + self._n_ahead)
        if not self._n_ahead:
            return self._received(self._send(number))
        for other in self._begun.keys() - set(wanted):
            self._begun.pop(other).cancel()
        for coming in wanted:
            if coming not in self._begun:
                self._begun[coming] = self._thread.submit(self._send, coming)
        return self._received(self._begun.pop(number).result())

    def close(self) -> None:
        """End the thread, and drop what it has read ahead."""
        self._begun.clear()
        self._thread.shutdown(cancel_futures=True)

    def _send(self, number: int) -> _Sent:
        segments = self._streams.segments(*divmod(number, self._streams.slots))
        if self._side is None:
            return _Sent(segments, None)
        with torch.cuda.stream(self._side):  # also sets the thread's device
            sent = tuple(segment.to(self._device) for segment in segments)
            return _Sent(sent, self._side.record_event())

    def _received(self, sent: _Sent) -> tuple[Segment, ...]:
        if sent.arrival is None:
            return sent.segments
        here = torch.cuda.current_stream(self._device)
        here.wait_event(sent.arrival)

        def used_here(tensor: torch.Tensor) -> torch.Tensor:
            tensor.record_stream(here)  # else its memory is reused while a kernel reads
            return tensor

        return tuple(segment.map(used_here) for segment in sent.segments)
