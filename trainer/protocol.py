"""The seam between streams of text and models: segments in, losses and memory out.

Any module with the methods of `RecurrentModel`, such as our Transformer-XL, trains, resumes and
evaluates under the same loop. Shapes: B streams of the micro batch, T tgt_len, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

import torch
from torch import Tensor

#: The target id of positions without a target: padding, or text read only to warm a memory.
IGNORED = -100


class Segment(NamedTuple):
    """The next T tokens of B streams. Rows shorter than T are padded on the right.

    A NamedTuple, because ZeRO-3's hooks see tensors only inside tuples.
    """

    tokens_BT: Tensor
    """Input ids, int64."""
    targets_BT: Tensor
    """Ids to predict, int64; `IGNORED` where there is no target."""
    lengths_B: Tensor
    """Real tokens of each row, int64."""
    starts_BT: Tensor | None
    """Index in the segment at which each token's document starts, -1 if before the segment;
    None if no memory is to be cut inside this segment."""
    token_clusters: tuple[Tensor, ...]
    """Per embedding cluster, the flat positions (in B·T) of the tokens it holds, int64."""
    target_clusters: tuple[Tensor, ...]
    """Per softmax cluster, the flat positions of the targets it holds, int64."""
    n_tokens: int
    """The number of targets in the segment, counted on the host."""
    whole: bool
    """True if every row has T tokens."""
    filled: bool = False
    """True if the lists of clusters are filled up at their ends with B·T, which is no position:
    only in a step that is captured, see `RecurrentModel`."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "Segment":
        """Return the segment with `change` applied to each of its tensors."""
        return self._replace(
            tokens_BT=change(self.tokens_BT),
            targets_BT=change(self.targets_BT),
            lengths_B=change(self.lengths_B),
            starts_BT=None if self.starts_BT is None else change(self.starts_BT),
            token_clusters=tuple(map(change, self.token_clusters)),
            target_clusters=tuple(map(change, self.target_clusters)),
        )

    def to(self, device: torch.device) -> "Segment":
        """Return the segment on `device`; a copy to a GPU is page-locked and not waited for."""
        if device.type == "cpu":
            return self
        return self.map(lambda tensor: tensor.pin_memory().to(device, non_blocking=True))


Memory: TypeAlias = "Tensor | int | tuple[Memory, ...]"
"""State that a model carries from one segment to the next: a tensor, or any nesting of tuples and
NamedTuples of tensors. It is detached from the graph, but for the segments inside one step.

The streams come first in each tensor, `[B, …]`. The model chooses the other dimensions and the
dtype, which then never change. A checkpoint keeps each tensor by its name, and streams may move
from rank to rank. An int is a lower bound over all B streams that the host knows without asking the
device: where streams of several memories are joined, the lowest int is kept.
"""


class Output(NamedTuple):
    """Result of one forward pass."""

    loss_sum: Tensor
    """Sum of nats over the segment's targets, a scalar in fp32 at least."""
    nll_BT: Tensor | None
    """Nats per target, in fp32 at least, 0 without one; None if the model only has the sum."""
    memory: Any
    """`Memory` after the segment: nested, shaped and typed as the one before, in new tensors."""
    extra: dict[str, Tensor] | None = None
    """Further losses by name (a to z and _, the same in every training pass), each a scalar in fp32
    at least, summed over the segment's tokens. They join the backward pass as the sum of nats
    does, and are recorded per token; nothing else counts them, and evaluations do not ask."""


def reading_memory(
    model: Any, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
) -> Memory:
    """Return empty memory for reading a text with weights that do not change.

    A model may have a method of this name that returns a faster memory than `empty_memory`. Such
    memory is never saved, and its tensors may change their shapes.
    """
    make = getattr(model, "reading_memory", model.empty_memory)
    memory: Memory = make(n_streams, mem_len=mem_len, dtype=dtype, device=device)
    return memory


class Reach(Protocol):
    """A function: how far back the predictions of a segment look, beyond the segment."""

    def __call__(self, mem_len: int, tgt_len: int, /) -> int | None:
        """Return a number of segments of `tgt_len` tokens; None is without end."""
        ...


def layered(n_layer: int) -> Callable[[int, int], int]:
    """Return the `Reach` of layers one above the other that each look `mem_len` tokens back."""

    def reach(mem_len: int, tgt_len: int) -> int:
        return n_layer * -(-mem_len // tgt_len)

    return reach


def reach_of(model: Any, *, n_layer: int | None) -> Reach:
    """Return a model's reach; one that does not tell is taken for layers, one without a number."""
    reach: Reach = getattr(model, "reach", layered(n_layer or 1))
    return reach


def reads_whole_segments(model: Any) -> bool:
    """Return whether a model says that its nats depend on where a text is cut into segments."""
    return bool(getattr(model, "whole_segments", False))


def forward_with_hidden(
    model: Any, segment: Segment, memory: Memory, *, clamp_len: int | None, same_length: bool
) -> tuple[Output, Tensor]:
    """Read a segment; return the model's output and its hidden states, `[B, T, D]`, detached.

    A model without a method of this name reads twice, see `RecurrentModel`.

    Raises:
        AttributeError: the model has no method `hidden` either.
    """
    both = getattr(model, "forward_with_hidden", None)
    if both is not None:
        found: tuple[Output, Tensor] = both(
            segment, memory, clamp_len=clamp_len, same_length=same_length
        )
        return found
    with torch.no_grad():
        hidden_BTD, _ = model.hidden(segment, memory, clamp_len=clamp_len, same_length=same_length)
    output: Output = model(segment, memory, clamp_len=clamp_len, same_length=same_length)
    return output, hidden_BTD


class RecurrentModel(Protocol):
    """The methods that the loop calls of a recurrent model, which is an `nn.Module` as well.

    A model may have an attribute `is_static`. If it is true, no pass waits for the device, all
    shapes follow from those of the segment and the memory, and the model reads clusters that are
    `filled`. Then a step may be captured: see `trainer.engine.passes.captured`.

    A model may have a method `reach`, see `Reach`: where rows score a split side by side, each row
    first reads so many segments before its own, or the text from its beginning. Without it a model
    is taken to look as far back as a Transformer-XL of `model.n_layer` layers, and a single text
    is not divided among rows.

    A model may have an attribute `whole_segments`. If it is true, its nats depend on where a text
    is cut, as do those of one that writes its memory once a segment: `txl check-model` does not ask
    for the same from other segments, and `txl eval` says if its own are not those of training.

    A model may have a method `resized_memory(memory, *, mem_len)`, which returns memory of another
    length: the newest that it had. A run whose `mem_len` follows a schedule asks for it.

    A model may have a method `translated_weights(tensors)`, which takes the tensors of a file of
    another program, by name, and returns those of its own parameters: for `--init-from FILE`.

    A model may have a method `hidden`, which takes what `predict` does and returns hidden states
    `[B, T, D]` and memory: `TrainedModel.hidden` calls it, and a cache of states, which reads with
    `forward` too. A method `forward_with_hidden` does both at once: it takes the same, and returns
    what `forward` returns and hidden states, detached. A method `words_after(hidden_ND)` returns
    the words' log-probabilities after hidden states, as a `trainer.model.adaptive.LogProbs`, and
    spares generation with a cache a second pass.
    """

    def empty_memory(
        self, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
    ) -> Memory:
        """Return memory of `n_streams` streams that have read nothing."""
        ...

    def forward(
        self,
        segment: Segment,
        memory: Memory,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
        attached: bool = False,
    ) -> Output:
        """Read a segment, predict its targets and update the memory.

        With `attached` the memory returned is not detached, so that the gradient of a later segment
        of the same step reaches back through it. The trainer asks for that only in a step of
        several segments (`train.bptt_segments`), whose memory it detaches at the end.
        """
        ...

    def predict(
        self,
        segment: Segment,
        memory: Memory,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> tuple[Tensor, Memory]:
        """Return log-probabilities `[B, T, V]` of each next token, in fp32 at least, and memory.

        Sampling calls a model's `predict_next` instead, if it has one: see `TransformerXL`.
        """
        ...

    def train(self, mode: bool = True) -> Self:
        """Do what `nn.Module.train` does."""
        ...
