"""The forward and the backward pass of a micro step, and the memory after it."""

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from torch import Tensor

from trainer.engine.passes.extra_losses import ExtraLosses, blamed
from trainer.engine.passes.forgetting import forget_in_place
from trainer.memory_tree import forget_streams
from trainer.protocol import Memory, Output, Segment

if TYPE_CHECKING:
    from trainer.engine.engine import Engine


Segments: TypeAlias = tuple[Segment, ...]
"""The segments of a micro step, one after the other: one, or `train.bptt_segments`."""


class How(NamedTuple):
    """Arguments of a pass beside its segments and its memory; the same in nearly every step."""

    loss_weight: float
    """The factor of the sum of nats, of which the gradient is taken."""
    clamp_len: int | None
    same_length: bool
    mem_len: int
    """M, of the memory that is read and returned."""


class Passed(NamedTuple):
    """Result of both passes of a micro step, besides gradients; tensors stay on the device."""

    loss_sum: Tensor
    """Sum of nats over the segments' targets, a scalar in fp32 at least."""
    nats_B: Tensor
    """Sum of nats of each stream, fp32 at least; not finite where a target's were not, and in all
    streams if an extra loss was not."""
    memory: Memory
    """After the last segment; forgotten where the loss was not finite."""
    extra: dict[str, Tensor]
    """The model's extra losses by name, detached."""

    def is_finite(self) -> Tensor:
        """Return whether each stream's loss was finite, bool, `[B]`."""
        return self.nats_B.isfinite()


class Passes:
    """Passes computed one operation after another."""

    def __init__(self, engine: "Engine", *, asks: bool, forgets: bool = False) -> None:
        """Compute an engine's passes.

        Args:
            engine: the engine.
            asks: whether to ask the device if a loss was not finite. Where that costs no wait, it
                spares most steps the selection of streams, and the mask of memory that follows.
            forgets: whether every segment is read with empty memory.
        """
        self._engine, self._asks, self._forgets = engine, asks, forgets
        self._empty: dict[int, Memory] = {}
        self._extra = ExtraLosses()

    def __call__(self, segments: Segments, memory: Memory, how: How) -> Passed:
        """Read segments, and add their gradients to those of the step so far.

        Raises:
            InputError: see `Engine.__call__` and `ExtraLosses.of`.
        """
        passed = self.read(segments, memory, how)
        finite_B = passed.is_finite()
        if self._asks and bool(finite_B.all()):
            return passed
        kept = forget_streams(passed.memory, finite_B, unread=self._unread(how.mem_len))
        return passed._replace(memory=kept)

    def read(self, segments: Segments, memory: Memory, how: How) -> Passed:
        """Do the same, but forget no stream."""
        engine, (segment, *more) = self._engine, segments
        lengths: dict[str, Any] = {"clamp_len": how.clamp_len, "same_length": how.same_length}
        if more:
            lengths |= {"more": tuple(more), "carries": not self._forgets}
        output = engine(segment, memory, **lengths)
        extra = self._extra.of(output)
        loss = sum(extra.values(), output.loss_sum)
        engine.backward(loss * how.loss_weight)
        nats_B = blamed(nats_by_row(output, n_rows=len(segment.lengths_B)), extra)
        detached = {name: one.detach() for name, one in extra.items()}
        return Passed(output.loss_sum.detach(), nats_B, output.memory, detached)

    def forget(self, memory: Memory, finite_B: Tensor, how: How) -> None:
        """Forget the streams whose loss was not finite, in the memory's own tensors."""
        forget_in_place(memory, finite_B, unread=self._unread(how.mem_len))

    def _unread(self, mem_len: int) -> Memory:
        if mem_len not in self._empty:
            self._empty = {mem_len: self._engine.empty_memory(1, mem_len=mem_len)}
        return self._empty[mem_len]


def nats_by_row(output: Output, *, n_rows: int) -> Tensor:
    """Return the sum of each row's nats, `[B]`; of a model that has only the sum, equal shares."""
    if output.nll_BT is None:
        return (output.loss_sum.detach() / n_rows).expand(n_rows)
    return output.nll_BT.detach().sum(dim=1)
