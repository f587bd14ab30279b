"""The seam between streams of text and models: segments in, losses and memory out.

Any module with these methods trains, resumes and evaluates under the same loop: Transformer-XL is
one of them. Shapes: B streams of the micro batch, T tgt_len, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

import torch
from torch import Tensor

#: Target of a position that has none (padding, or text read only to warm a memory).
IGNORED = -100


class Segment(NamedTuple):
    """The next T tokens of B streams. Rows shorter than T are padded on the right.

    A NamedTuple, because ZeRO-3's hooks see tensors only inside tuples.
    """

    tokens_BT: Tensor
    """Input ids, int64."""
    targets_BT: Tensor
    """Ids to predict, int64; `IGNORED` where there is none."""
    lengths_B: Tensor
    """Real tokens of each row, int64."""
    starts_BT: Tensor | None
    """Index in the segment of the start of each token's document, -1 where it began before;
    None when no memory is to be cut inside this segment."""
    token_clusters: tuple[Tensor, ...]
    """Per embedding cluster, the flat positions (in B·T) of the tokens it holds, int64."""
    target_clusters: tuple[Tensor, ...]
    """Per softmax cluster, the flat positions of the targets it holds, int64."""
    n_tokens: int
    """Targets in this segment, counted on the host."""
    whole: bool
    """Every row has T tokens."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "Segment":
        """The segment with `change` applied to each of its tensors."""
        return self._replace(
            tokens_BT=change(self.tokens_BT),
            targets_BT=change(self.targets_BT),
            lengths_B=change(self.lengths_B),
            starts_BT=None if self.starts_BT is None else change(self.starts_BT),
            token_clusters=tuple(map(change, self.token_clusters)),
            target_clusters=tuple(map(change, self.target_clusters)),
        )

    def to(self, device: torch.device) -> "Segment":
        """The segment on `device`; to a GPU it goes through page-locked memory, unwaited for."""
        if device.type == "cpu":
            return self
        return self.map(lambda tensor: tensor.pin_memory().to(device, non_blocking=True))


Memory: TypeAlias = "Tensor | int | tuple[Memory, ...]"
"""State that a model carries from one segment to the next, detached from the graph: a tensor, or
any nesting of tuples and NamedTuples of tensors.

The streams come first in each tensor, `[B, …]`; what else its shape and dtype are, is the model's
business, and stays. A checkpoint keeps each by its name, and streams move from rank to rank.
A number in it is what the host knows of all B streams without asking the device, a lower bound:
where streams of several memories come together the lowest holds.
"""


class Output(NamedTuple):
    """Result of one forward pass."""

    loss_sum: Tensor
    """Sum of nats over the segment's targets, a scalar in fp32 at least."""
    nll_BT: Tensor | None
    """Nats per target, in fp32 at least, 0 where there is none; None if the model does not tell."""
    memory: Any
    """`Memory` of the same nesting, shapes and dtypes as before, in tensors of its own."""


def reading_memory(
    model: Any, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
) -> Memory:
    """Return empty memory for reading a text with weights that stay as they are meanwhile.

    A model that can keep another for this than its usual memory says so by a method of this name.
    It is never saved, and what is in it may change its shape.
    """
    make = getattr(model, "reading_memory", model.empty_memory)
    memory: Memory = make(n_streams, mem_len=mem_len, dtype=dtype, device=device)
    return memory


class RecurrentModel(Protocol):
    """The seam at which another recurrent model enters; it is an `nn.Module` as well."""

    def empty_memory(
        self, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
    ) -> Memory:
        """Memory of `n_streams` streams that have read nothing."""
        ...

    def forward(
        self,
        segment: Segment,
        memory: Memory,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> Output:
        """Read a segment, predict its targets and update the memory."""
        ...

    def predict(
        self,
        segment: Segment,
        memory: Memory,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> tuple[Tensor, Memory]:
        """Log-probabilities `[B, T, V]`, fp32 at least, of the token after each, and the memory."""
        ...

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`."""
        ...
