"""Both passes of a micro step as one CUDA graph: the host launches one thing for a thousand.

A graph reads and writes the same tensors every time, so segment and memory are copied into static
ones, and gradients are left in static ones. What is captured is what `Passes` would do. Captured is
the usual micro step alone: its rows are whole, no document begins in it, and the numbers that the
host knows of the memory stay as they are. Every other one takes the usual way, with the same
results.

On a CPU there are no graphs, and the same work is done again on the same static tensors.
"""

import logging
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from trainer.config.experiment import TrainConfig
from trainer.engine.passes.graphs import (
    CudaGraphs,
    Emulated,
    Graphs,
    Results,
    drop_gradients,
    some_gradient,
)
from trainer.engine.passes.usual import How, Passed, Passes, Segments
from trainer.errors import InputError
from trainer.memory_tree import leaves, rebuilt
from trainer.outside import shortened
from trainer.protocol import Memory, Segment

if TYPE_CHECKING:
    from trainer.engine.engine import Engine

log = logging.getLogger(__name__)

#: The lists of clusters have place for so many words more than met, of as many; see `place_for`.
_SPARE = 4
#: The length of such a list is a multiple of this.
_BUCKET = 128


class CapturedPasses:
    """Passes that are captured where they can be, see the module; called as `Passes` is."""

    def __init__(
        self,
        passes: Passes,
        parameters: Iterable[nn.Parameter],
        *,
        slots: int,
        forgets: bool = False,
        insists: bool = False,
    ) -> None:
        """Capture passes.

        Args:
            passes: what to capture.
            parameters: where they leave gradients.
            slots: the number of micro steps of a step.
            forgets: whether every pass begins with empty memory, so that the numbers after a pass
                are nobody's.
            insists: whether to fail if the device does not capture them, instead of going on
                as usual.
        """
        self._insists, self._forgets = insists, forgets
        self._failed = False
        self._passes, self._parameters, self._slots = passes, list(parameters), slots
        self._steady: _Kind | None = None
        self._kind: _Kind | None = None
        self._static: _Static | None = None
        self._graphs: Graphs | None = None
        self._extra_names: tuple[str, ...] = ()

    def __call__(self, segments: Segments, memory: Memory, how: How) -> Passed:
        """Do what `Passes` does with a segment; the memory returned changes with the next call."""
        (segment,) = segments
        kind = _kind(segment, memory, how)
        if kind is not None and kind != self._kind and kind == self._steady:
            self._kind, self._static, self._graphs = kind, None, None  # other lengths from now on
        if kind is None or kind != self._kind or self._failed or not self._can_go_on():
            return self._as_usual(segment, memory, how)
        if self._static is None or not self._static.has_place_for(segment):
            if some_gradient(self._parameters) is not None:
                return self._as_usual(segment, memory, how)  # captured at a step's first pass
            if not self._try_to_capture(segment, memory, how):
                return self._as_usual(segment, memory, how)
        assert self._static is not None
        assert self._graphs is not None
        self._static.load(segment, memory)
        loss_sum, nats_B, *losses = self._graphs.run()
        extra = dict(zip(self._extra_names, losses, strict=True))
        if self._slots == 1:
            return Passed(loss_sum, nats_B, self._static.memory, extra)
        # The next slot's pass writes where this one has written.
        return Passed(loss_sum, nats_B.clone(), self._static.unload(memory), extra)

    def _can_go_on(self) -> bool:
        """Return whether the step's gradients, if it has some, lie where a graph adds to them."""
        there = some_gradient(self._parameters)
        return there is None or (self._graphs is not None and self._graphs.holds(there))

    def _as_usual(self, segment: Segment, memory: Memory, how: How) -> Passed:
        passed = self._passes((segment,), memory, how)
        kind, after = _kind(segment, memory, how), _numbers(passed.memory)
        is_steady = kind is not None and (self._forgets or kind.numbers == after)
        self._steady = kind if is_steady else None
        return passed

    def _try_to_capture(self, segment: Segment, memory: Memory, how: How) -> bool:
        """Capture the passes; return whether that went well."""
        try:
            self._capture(segment, memory, how)
            return True
        except RuntimeError as error:
            if self._insists:
                raise
            log.warning("no CUDA graph, steps go on without: %s", shortened(str(error)))
            self._failed, self._graphs, self._static = True, None, None
            drop_gradients(self._parameters)
            return False

    def _capture(self, segment: Segment, memory: Memory, how: How) -> None:
        self._graphs = None  # its memory is free for the next one
        self._static = _Static(segment, memory, before=self._static)
        self._static.load(segment, memory)
        device = segment.tokens_BT.device
        graphs = CudaGraphs if device.type == "cuda" else Emulated
        work = partial(self._work, self._static, how)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            self._graphs = graphs(work, self._parameters, slots=self._slots)
        log.info("a micro step of %d streams × %d tokens is captured", *segment.tokens_BT.shape)

    def _work(self, static: "_Static", how: How) -> Results:
        passed = self._passes.read((static.segment,), static.memory, how)
        _copy(passed.memory, into=static.memory)
        self._passes.forget(static.memory, passed.is_finite(), how)
        self._extra_names = tuple(passed.extra)
        return passed.loss_sum, passed.nats_B, *passed.extra.values()


class _Kind(NamedTuple):
    """The properties that a pass must share with the captured one, to be replaced by it."""

    numbers: "_Numbers"
    how: How
    shapes: tuple[torch.Size, ...]
    n_clusters: int


_Numbers = tuple[int, ...]


def _kind(segment: Segment, memory: Memory, how: How) -> _Kind | None:
    """Return the kind of a pass; None if it is not to be captured."""
    if not segment.whole or segment.starts_BT is not None:
        return None
    shapes = (segment.tokens_BT.shape, *(tensor.shape for tensor in _tensors(memory)))
    return _Kind(_numbers(memory), how, shapes, len(segment.token_clusters))


def _numbers(memory: Memory) -> _Numbers:
    return tuple(leaf for _, leaf in leaves(memory) if isinstance(leaf, int))


def _tensors(memory: Memory) -> list[Tensor]:
    return [leaf for _, leaf in leaves(memory) if isinstance(leaf, Tensor)]


class _Static:
    """A segment and a memory whose tensors stay where they are."""

    def __init__(self, segment: Segment, memory: Memory, *, before: "_Static | None") -> None:
        """Make place for such a segment, and for all that had place `before`."""
        tokens_BT = segment.tokens_BT
        n_positions = tokens_BT.numel()
        clusters = [*segment.token_clusters, *segment.target_clusters]
        places = [place_for(len(cluster), n_positions) for cluster in clusters]
        if before is not None:
            places = [max(*pair) for pair in zip(places, before.places, strict=True)]
        self.places: list[int] = places
        self._n_positions = n_positions
        self._all = torch.full((sum(places),), n_positions, device=tokens_BT.device)
        self._lists: tuple[Tensor, ...] = torch.split(self._all, places) if places else ()
        n_tokens = len(segment.token_clusters)
        self.segment = segment.map(torch.clone)._replace(
            token_clusters=tuple(self._lists[:n_tokens]),
            target_clusters=tuple(self._lists[n_tokens:]),
            filled=True,
        )
        self.memory: Memory = rebuilt(
            memory,
            {
                name: leaf.clone() if isinstance(leaf, Tensor) else leaf
                for name, leaf in leaves(memory)
            },
        )

    def has_place_for(self, segment: Segment) -> bool:
        """Return whether the lists of clusters are long enough."""
        clusters = (*segment.token_clusters, *segment.target_clusters)
        return all(len(c) <= place for c, place in zip(clusters, self.places, strict=True))

    def load(self, segment: Segment, memory: Memory) -> None:
        """Copy a segment, and a memory that is not this one."""
        self.segment.tokens_BT.copy_(segment.tokens_BT)
        self.segment.targets_BT.copy_(segment.targets_BT)
        if self._lists:
            self._all.fill_(self._n_positions)
            clusters = (*segment.token_clusters, *segment.target_clusters)
            for place, cluster in zip(self._lists, clusters, strict=True):
                place[: len(cluster)].copy_(cluster)
        if memory is not self.memory:
            _copy(memory, into=self.memory)

    def unload(self, memory: Memory) -> Memory:
        """Return `memory` with this memory's values, in its own tensors."""
        _copy(self.memory, into=memory)
        return memory


def _copy(memory: Memory, *, into: Memory) -> None:
    """Copy the tensors of a memory into those of another, all of a dtype at once."""
    by_dtype: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for kept, new in zip(_tensors(into), _tensors(memory), strict=True):
        kept_ones, new_ones = by_dtype.setdefault(kept.dtype, ([], []))
        kept_ones.append(kept)
        new_ones.append(new)
    for kept_ones, new_ones in by_dtype.values():
        torch._foreach_copy_(kept_ones, new_ones)


def place_for(n: int, n_positions: int) -> int:
    """Return the length of a list for `n` words, and some more in other segments."""
    more = -(-(n + n // _SPARE) // _BUCKET) * _BUCKET
    return min(n_positions, max(more, _BUCKET))


def passes_of(
    engine: "Engine", train: TrainConfig, *, forgets: bool = False
) -> Passes | CapturedPasses:
    """Return the passes of a run, captured where they can be and the experiment allows it.

    With `forgets` every pass begins with empty memory.

    Raises:
        InputError: the experiment wants them captured, and they cannot be.
    """
    device = engine.world.device.type
    usual = Passes(engine, asks=device == "cpu", forgets=forgets)
    if train.cuda_graph == "off":
        return usual
    obstacle = _obstacle(engine, train)
    if train.cuda_graph == "auto" and (obstacle or device == "cpu"):
        if obstacle and device != "cpu":
            log.info("no CUDA graph: %s", obstacle)
        return usual
    if obstacle:
        raise InputError(f"train.cuda_graph on: {obstacle}; or use --train.cuda-graph auto")
    if engine.gradients is not None:
        engine.gradients.learn_late()
    passes = Passes(engine, asks=False)
    insists = train.cuda_graph == "on"
    parameters = engine.ds.module.parameters()
    return CapturedPasses(passes, parameters, slots=engine.slots, forgets=forgets, insists=insists)


def _obstacle(engine: "Engine", train: TrainConfig) -> str | None:
    """Return why passes cannot be captured, and what to change; None if they can."""
    if train.bptt_segments > 1:
        return "a step of several segments is not captured: leave --train.bptt-segments out"
    if engine.zero_gradients is not None and engine.zero_gradients.early is not None:
        return engine.zero_gradients.early
    if engine.gradients is not None and engine.resolved.values.get("communication_data_type"):
        return "DeepSpeed reduces gradients in communication_data_type: leave that key out"
    if not getattr(engine.model, "is_static", False):
        return "the model is not static: see trainer.protocol.RecurrentModel"
    return None
