"""What is captured, and what is done where a device captures nothing; without a model."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from builders import segment_of
from torch import Tensor, nn

from trainer.engine.passes import captured
from trainer.engine.passes.captured import CapturedPasses
from trainer.engine.passes.usual import How, Passed
from trainer.protocol import Segment

HOW = How(1.0, None, False, 0)


class Sums(NamedTuple):
    """A memory: what each stream has read, and a number that the host knows."""

    read_B: Tensor
    sure: int


class Adding:
    """A stand-in for `Passes`: a model with one weight, which adds what it reads to its memory."""

    def __init__(self) -> None:
        self.weight = nn.Parameter(torch.tensor([2.0]))
        self.n_passes = 0

    def __call__(self, segments: tuple[Segment, ...], memory: Sums, how: How) -> Passed:
        return self.read(segments, memory, how)

    def forget(self, memory: Sums, finite_B: Tensor, how: How) -> None:
        assert finite_B.all()

    def read(self, segments: tuple[Segment, ...], memory: Sums, how: How) -> Passed:
        (segment,) = segments
        self.n_passes += 1
        read_B = memory.read_B + segment.tokens_BT.sum(1)
        loss = (self.weight * read_B).sum() * how.loss_weight
        loss.backward()
        return Passed(
            loss.detach(),
            read_B.detach().float(),
            Sums(read_B.detach(), min(3, memory.sure + 1)),
            {"twice": 2 * loss.detach()},
        )


def segments(n: int) -> list[Segment]:
    return [segment_of(torch.full((2, 3), i % 5), cutoffs=(2, 4)) for i in range(n)]


def train(passes: Callable[..., Passed], weight: nn.Parameter, *, slots: int) -> list[Any]:
    """Return losses, gradients and memories of steps of so many micro steps."""
    memories = [Sums(torch.zeros(2), 0) for _ in range(slots)]
    told: list[Any] = []
    for step in range(6):
        for slot, segment in enumerate(segments(6 * slots)[step * slots :][:slots]):
            passed = passes((segment,), memories[slot], HOW)
            memories[slot] = passed.memory
            extra = {name: float(loss) for name, loss in passed.extra.items()}
            told.append((float(passed.loss_sum), passed.memory.read_B.tolist(), extra))
        assert weight.grad is not None
        told.append(weight.grad.tolist())
        weight.grad = None
    return told


@pytest.mark.parametrize("n_idle", [0, 2])
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_captured_passes_do_what_passes_do(slots: int, n_idle: int) -> None:
    """The first parameters of a model may never get a gradient."""
    usual, static = Adding(), Adding()
    parameters = [*(nn.Parameter(torch.ones(1)) for _ in range(n_idle)), static.weight]
    passes = CapturedPasses(static, parameters, slots=slots, insists=True)  # type: ignore[arg-type]
    assert train(passes, static.weight, slots=slots) == train(usual, usual.weight, slots=slots)
    assert passes._graphs is not None


def test_a_segment_with_more_words_of_a_cluster_than_there_is_place_for_is_captured_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(captured, "_BUCKET", 1)
    usual, static = Adding(), Adding()
    passes = CapturedPasses(static, [static.weight], slots=1)  # type: ignore[arg-type]
    assert train(passes, static.weight, slots=1) == train(usual, usual.weight, slots=1)
    assert caplog.text.count("is captured") > 1


def test_a_device_that_captures_nothing_goes_on_as_usual(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(work: Callable[[], Any], *_: Any, **__: Any) -> None:
        work()  # leaves gradients, and another memory
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(captured, "Emulated", fail)
    usual, static = Adding(), Adding()
    passes = CapturedPasses(static, [static.weight], slots=1)  # type: ignore[arg-type]
    assert train(passes, static.weight, slots=1) == train(usual, usual.weight, slots=1)
    assert caplog.text.count("steps go on without") == 1
    insisting = CapturedPasses(static, [static.weight], slots=1, insists=True)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="not permitted"):
        train(insisting, static.weight, slots=1)
