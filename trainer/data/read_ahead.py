"""Segments that are on the device before they are asked for.

What a micro step reads is a pure function of its number, so reading ahead is a cache that nobody
sees: whatever is asked for comes, also where a rollback has moved the position in the text.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch

from trainer.data.streams import Streams
from trainer.protocol import Segment

#: Micro steps read ahead, by kind of device: a GPU computes one while the next is on its way. On a
#: CPU a thread would take from the computation what it saves, a thousandth of a small model's step.
AHEAD = {"cuda": 2, "cpu": 0}


class _Sent(NamedTuple):
    """A segment on its way to the device."""

    segment: Segment
    arrival: torch.cuda.Event | None
    """Where later work on the GPU has to wait for it; None on the CPU."""


class SegmentReader:
    """Reads one rank's segments, and those of coming micro steps in a thread of its own."""

    def __init__(self, streams: Streams, device: torch.device, *, n_ahead: int) -> None:
        """Read ahead of the last segment asked for by at most `n_ahead` micro steps."""
        self._streams, self._device, self._n_ahead = streams, device, n_ahead
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._begun: dict[int, Future[_Sent]] = {}
        self._side: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's

    def segment(self, data_step: int, slot: int) -> Segment:
        """Return the segment of `slot` in `data_step`, on the device; raises as reading did.

        Nothing waits for it to arrive there but what the GPU is given from now on.
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
        """End the thread; what it has read ahead is dropped."""
        self._begun.clear()
        self._thread.shutdown(cancel_futures=True)

    def _send(self, number: int) -> _Sent:
        segment = self._streams.segment(*divmod(number, self._streams.slots))
        if self._side is None:
            return _Sent(segment, None)
        with torch.cuda.stream(self._side):  # which makes its device the thread's, too
            sent = segment.to(self._device)
            return _Sent(sent, self._side.record_event())

    def _received(self, sent: _Sent) -> Segment:
        if sent.arrival is None:
            return sent.segment
        here = torch.cuda.current_stream(self._device)
        here.wait_event(sent.arrival)

        def used_here(tensor: torch.Tensor) -> torch.Tensor:
            tensor.record_stream(here)  # or its memory is reused while a kernel reads it
            return tensor

        return sent.segment.map(used_here)
