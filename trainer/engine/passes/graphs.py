"""Work that is done again and again on the same tensors: as CUDA graphs, or anew on a CPU."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Results = tuple[Tensor, ...]
"""The sum of nats, that of each stream, and the extra losses."""

Work = Callable[[], Results]
"""Both passes, on static tensors."""


class Graphs(ABC):
    """Work that can be done again and again, on the same tensors."""

    def __init__(self, work: Work, parameters: list[nn.Parameter], *, slots: int) -> None:
        self.parameters = parameters
        self.gradients: list[Tensor | None] = []

    def run(self) -> Results:
        """Do the work; where parameters have gradients, which `holds` must know, add to them.

        Returns:
            The results of the work, in tensors that the next run may overwrite.
        """
        there = some_gradient(self.parameters)
        if there is None:
            return self._first()
        assert self.holds(there), "a graph adds to gradients where it has left some before"
        return self._later()

    def holds(self, gradient: Tensor) -> bool:
        """Return whether a gradient lies where a run would have left it."""
        return any(gradient is kept for kept in self.gradients)

    @abstractmethod
    def _first(self) -> Results: ...

    @abstractmethod
    def _later(self) -> Results: ...


class CudaGraphs(Graphs):
    """The work as CUDA graphs: of the first micro step of a step, and of a later one."""

    def __init__(self, work: Work, parameters: list[nn.Parameter], *, slots: int) -> None:
        """Capture the work, which is done before, so that all kernels are there."""
        super().__init__(work, parameters, slots=slots)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's stub
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(min(slots, 2)):
                work()
        torch.cuda.current_stream().wait_stream(side)
        drop_gradients(parameters)
        self._graph_of_first, self._results = _captured(work, side, None)
        self.gradients = [p.grad for p in parameters]
        if slots > 1:
            pool = self._graph_of_first.pool()
            self._graph_of_later, self._later_results = _captured(work, side, pool)
        drop_gradients(parameters)

    def _first(self) -> Results:
        self._graph_of_first.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self._results

    def _later(self) -> Results:
        self._graph_of_later.replay()
        return self._later_results


def _captured(
    work: Work, side: torch.cuda.Stream, pool: Any
) -> tuple[torch.cuda.CUDAGraph, Results]:
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads copy segments meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            results = work()
    except RuntimeError:
        _give_up(graph)
        raise
    return graph, results


def _give_up(graph: torch.cuda.CUDAGraph) -> None:
    """Let PyTorch know that nothing is captured any more.

    Where the device itself has ended a capture, PyTorch's generator still counts for the graph,
    and its allocator still allocates for it. Private in PyTorch: `_cuda_endAllocateToPool`.
    """
    device = torch.cuda.current_device()
    generator = torch.cuda.default_generators[device]
    generator.graphsafe_set_state(generator.clone_state())
    with contextlib.suppress(RuntimeError):  # it has ended that one
        torch._C._cuda_endAllocateToPool(device, graph.pool())


class Emulated(Graphs):
    """The same on a CPU: static tensors, and the work done anew."""

    def __init__(self, work: Work, parameters: list[nn.Parameter], *, slots: int) -> None:
        super().__init__(work, parameters, slots=slots)
        self._work = work
        self._results: Results | None = None

    def _first(self) -> Results:
        results = self._later()
        if not self.gradients:
            self.gradients = [p.grad for p in self.parameters]
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            if gradient is not None and parameter.grad is not None:
                gradient.copy_(parameter.grad)
            parameter.grad = gradient
        return results

    def _later(self) -> Results:
        results = self._work()
        self._results = self._results or results
        for kept, new in zip(self._results, results, strict=True):
            kept.copy_(new)
        return self._results


def some_gradient(parameters: list[nn.Parameter]) -> Tensor | None:
    """Return the gradient of the first parameter that has one; None if none has."""
    return next((p.grad for p in parameters if p.grad is not None), None)


def drop_gradients(parameters: list[nn.Parameter]) -> None:
    """Forget the gradients of parameters."""
    for parameter in parameters:
        parameter.grad = None
