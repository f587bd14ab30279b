"""A small model that holds to the Protocol, and twelve that break one rule each, by name.

The healthy one sums up what it reads: its state fades, and decides on the next word. `BROKEN` names
each fault with its class; `build_NAME` builds it, as a factory.

B streams · T tokens · W width.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.protocol import IGNORED, Output, Segment

WIDTH = 6


class Healthy(nn.Module):
    """A `trainer.protocol.RecurrentModel` whose state is one fading sum, in fp32."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, vocabulary_size)

    def empty_memory(
        self, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
    ) -> Any:
        return torch.zeros(n_streams, WIDTH, device=device)

    def reach(self, mem_len: int, tgt_len: int) -> int | None:
        return None

    def forward(self, segment: Segment, memory: Any, **lengths: Any) -> Output:
        logits_BTV, memory = self.run(segment, memory)
        nll_BT = F.cross_entropy(
            logits_BTV.mT, segment.targets_BT, ignore_index=IGNORED, reduction="none"
        )
        return Output(nll_BT.sum(), nll_BT.detach(), memory)

    def predict(self, segment: Segment, memory: Any, **lengths: Any) -> tuple[Tensor, Any]:
        logits_BTV, memory = self.run(segment, memory)
        return logits_BTV.log_softmax(dim=-1), memory

    def run(self, segment: Segment, memory: Any) -> tuple[Tensor, Any]:
        state_BW = memory
        is_read_BT = self.is_read(segment)
        states = []
        for x_BW, is_read_B in zip(self.embedded(segment).unbind(1), is_read_BT.T, strict=True):
            new_BW = 0.8 * state_BW + x_BW
            state_BW = torch.where(is_read_B[:, None], new_BW, state_BW)
            states.append(state_BW)
        logits_BTV = self.out(self.mix(torch.stack(states, dim=1)).tanh()).float()
        return logits_BTV, state_BW.detach().clone()

    def embedded(self, segment: Segment) -> Tensor:
        return self.embedding(segment.tokens_BT).float()

    def is_read(self, segment: Segment) -> Tensor:
        places_T = torch.arange(segment.tokens_BT.shape[1])
        return places_T < segment.lengths_B[:, None]


class Attached(Healthy):
    def run(self, segment: Segment, memory: Any) -> tuple[Tensor, Any]:
        logits_BTV, memory = super().run(segment, memory)
        return logits_BTV, memory + 0 * logits_BTV.sum()


class Aliased(Healthy):
    """Its memory lies in a store of its own, which the next segment overwrites."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__(vocabulary_size)
        self.register_buffer("store", torch.zeros(9, WIDTH))

    def run(self, segment: Segment, memory: Any) -> tuple[Tensor, Any]:
        logits_BTV, memory = super().run(segment, memory)
        return logits_BTV, self.store[: len(memory)].copy_(memory)


class InPlace(Healthy):
    def run(self, segment: Segment, memory: Any) -> tuple[Tensor, Any]:
        logits_BTV, after = super().run(segment, memory)
        memory.copy_(after)
        return logits_BTV, after


class ReadsPadding(Healthy):
    def is_read(self, segment: Segment) -> Tensor:
        return torch.ones_like(segment.tokens_BT, dtype=torch.bool)


class BatchStatistics(Healthy):
    def embedded(self, segment: Segment) -> Tensor:
        x_BTW = super().embedded(segment)
        return x_BTW - x_BTW.mean(dim=(0, 1)) if self.training else x_BTW


class HalfState(Healthy):
    """Its sums are kept in fp16."""

    def empty_memory(self, n_streams: int, **how: Any) -> Any:
        return super().empty_memory(n_streams, **how).half()

    def run(self, segment: Segment, memory: Any) -> tuple[Tensor, Any]:
        logits_BTV, memory = super().run(segment, memory.float())
        return logits_BTV, memory.half()


class BfloatSum(Healthy):
    """In bf16 its sums are kept in bf16, to which a long text adds nothing any more."""

    def empty_memory(self, n_streams: int, *, dtype: torch.dtype, **how: Any) -> Any:
        return super().empty_memory(n_streams, dtype=dtype, **how).to(dtype)

    def run(self, segment: Segment, memory: Any) -> tuple[Tensor, Any]:
        state_BW = memory.float()
        sums_BTW = state_BW[:, None] + (0.02 * (self.embedded(segment) + 2)).cumsum(1)
        return self.out(sums_BTW.sin()).float(), sums_BTW[:, -1].detach().to(memory.dtype)


class WholeBfloatSum(BfloatSum):
    """It also says that its nats depend on where a text is cut."""

    whole_segments = True


class LooksAhead(Healthy):
    def embedded(self, segment: Segment) -> Tensor:
        x_BTW = super().embedded(segment)
        return x_BTW + F.pad(x_BTW[:, 1:], (0, 0, 0, 1))


class HiddenGlobal(Healthy):
    last: Any = 0.0

    def embedded(self, segment: Segment) -> Tensor:
        x_BTW = super().embedded(segment)
        now, self.last = self.last, x_BTW[0, -1].detach()
        return x_BTW + now


class WrongReach(Healthy):
    def reach(self, mem_len: int, tgt_len: int) -> int | None:
        return 1


class CastState(Healthy):
    """Its state is fp32 on the outside, and bf16 on its way."""

    def run(self, segment: Segment, memory: Any) -> tuple[Tensor, Any]:
        logits_BTV, memory = super().run(segment, memory)
        return logits_BTV, memory.bfloat16().float()


class CastWhenRead(Healthy):
    def run(self, segment: Segment, memory: Any) -> tuple[Tensor, Any]:
        return super().run(segment, memory.half().float())


class StreamsSecond(Healthy):
    def empty_memory(self, n_streams: int, **how: Any) -> Any:
        return super().empty_memory(n_streams, **how)[None].repeat(2, 1, 1)

    def run(self, segment: Segment, memory: Any) -> tuple[Tensor, Any]:
        logits_BTV, state_BW = super().run(segment, memory[0])
        return logits_BTV, state_BW[None].repeat(2, 1, 1)


class ExtraAsNats(Healthy):
    def forward(self, segment: Segment, memory: Any, **lengths: Any) -> Output:
        output = super().forward(segment, memory, **lengths)
        penalty = self.out.weight.square().sum()
        return output._replace(loss_sum=output.loss_sum + penalty, extra={"penalty": penalty})


class GrowingState(Healthy):
    """Its memory is as long as the segments that it has read."""

    def run(self, segment: Segment, memory: Any) -> tuple[Tensor, Any]:
        logits_BTV, after = super().run(segment, memory[:, :WIDTH])
        return logits_BTV, torch.cat([after, memory], dim=1)


class CutState(Healthy):
    """It forgets between segments."""

    def run(self, segment: Segment, memory: Any) -> tuple[Tensor, Any]:
        logits_BTV, after = super().run(segment, torch.zeros_like(memory))
        return logits_BTV, after


class SpreadsNan(Healthy):
    """A stream's memory is weighed with that of the others, and with nothing of it."""

    def run(self, segment: Segment, memory: Any) -> tuple[Tensor, Any]:
        return super().run(segment, memory + 0 * memory.sum(0))


class PredictsOtherwise(Healthy):
    def predict(self, segment: Segment, memory: Any, **lengths: Any) -> tuple[Tensor, Any]:
        logits_BTV, memory = self.run(segment, memory)
        return (2 * logits_BTV).log_softmax(dim=-1), memory


class SeesTargets(Healthy):
    def embedded(self, segment: Segment) -> Tensor:
        return super().embedded(segment) + self.embedding(segment.targets_BT.clamp(min=0))


class Drawing(Healthy):
    """It draws numbers in training, as dropout does, and holds to all rules."""

    def embedded(self, segment: Segment) -> Tensor:
        x_BTW = super().embedded(segment)
        return x_BTW + torch.randn_like(x_BTW) if self.training else x_BTW


def build(kind: type[Healthy], config: Any, vocabulary_size: int) -> nn.Module:
    return kind(vocabulary_size)


def __getattr__(name: str) -> Any:
    """Return the factory of a class: broken_models:build_CutState."""
    kind = globals().get(name.removeprefix("build_"))
    if kind is None or not name.startswith("build_"):
        raise AttributeError(name)
    return partial(build, kind)
