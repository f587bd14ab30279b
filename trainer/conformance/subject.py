"""The model that is checked: built anew for each check, with texts, readings and comparisons.

B streams · T tokens · V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from trainer.config.precision import Precision
from trainer.config.recipe import ModelConfig
from trainer.data.rows import clusters_of
from trainer.memory_tree import leaves, rebuilt
from trainer.model.build import build_model
from trainer.model.precision import autocast_of, compute_dtype_of
from trainer.protocol import (
    IGNORED,
    Memory,
    Output,
    Reach,
    Segment,
    reach_of,
    reads_whole_segments,
)
from trainer.wording import counted

Mode = Literal["training", "evaluation"]

#: Memory of so many tokens holds any text of the checks, unless they ask for less.
ROOM = 64
#: Two numbers are the same if they differ by no more than this, relative to 1 and to their size.
TOLERANCE = 1e-4
#: Words that a model without cutoffs can tell apart.
_WORDS = 31
#: Streams and tokens of the text that all checks read from.
_STREAMS, _TOKENS = 8, 600


class Finding(NamedTuple):
    """An input for which a check does not hold, and what was seen."""

    input: str
    seen: str


class Read(NamedTuple):
    """Result of reading a segment, detached."""

    nats_BT: Tensor
    memory: Memory


@dataclass(frozen=True)
class Subject:
    """A model under examination, whose weights are drawn so wide that all of it matters.

    Initial weights may be so small that a wrong state changes no nats that anybody could see.
    """

    config: ModelConfig
    device: torch.device

    @property
    def vocabulary_size(self) -> int:
        """Return V."""
        return words_of(self.config)

    @cached_property
    def model(self) -> Any:
        """Return the model, without dropout."""
        without = self.config.model_copy(update={"dropout": 0.0, "attn_dropout": 0.0})
        model = build_model(without, vocabulary_size=self.vocabulary_size, seed=0)
        _widen(model)
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
            elif isinstance(getattr(module, "dropout", None), float):
                cast(Any, module).dropout = 0.0
        return model.to(self.device)

    @property
    def reach(self) -> Reach:
        """Return how far back the model says that it looks."""
        return reach_of(self.model, n_layer=self.config.n_layer)

    @property
    def whole_segments(self) -> bool:
        """Return whether the model says that its nats depend on where a text is cut."""
        return reads_whole_segments(self.model)

    @cached_property
    def modes(self) -> tuple[Mode, ...]:
        """Return the modes in which nats can be compared: in training not if it draws numbers."""
        first, second = (self._drawn(seed) for seed in (1, 2))
        return ("training", "evaluation") if torch.equal(first, second) else ("evaluation",)

    def _drawn(self, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return self.read(self.piece(0, 4, rows=[0, 1]), self.empty(2), mode="training").nats_BT

    @cached_property
    def _text(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.vocabulary_size, (_STREAMS, _TOKENS), generator=generator)

    def piece(self, begin: int, end: int, *, rows: Sequence[int] = (0,)) -> Segment:
        """Return the tokens from `begin` up to `end` of some streams, and the targets after each.

        A shorter piece is the beginning of a longer one.
        """
        text_BX = self._text[list(rows), begin : end + 1]
        return self.segment(text_BX[:, :-1], text_BX[:, 1:])

    def segment(
        self, tokens_BT: Tensor, targets_BT: Tensor, *, lengths: Sequence[int] | None = None
    ) -> Segment:
        """Return a segment; what lies behind a row's length is padding, without targets."""
        tokens_BT, targets_BT = tokens_BT.cpu(), targets_BT.cpu()
        n_streams, tgt_len = tokens_BT.shape
        lengths_B = torch.tensor(lengths or [tgt_len] * n_streams)
        is_pad_BT = torch.arange(tgt_len) >= lengths_B[:, None]
        targets_BT = targets_BT.masked_fill(is_pad_BT, IGNORED)
        cutoffs = self.config.cutoffs
        return Segment(
            tokens_BT=tokens_BT.contiguous(),
            targets_BT=targets_BT.contiguous(),
            lengths_B=lengths_B,
            starts_BT=None,
            token_clusters=clusters_of(np.asarray(tokens_BT), cutoffs),
            target_clusters=clusters_of(np.asarray(targets_BT), cutoffs),
            n_tokens=int((targets_BT != IGNORED).sum()),
            whole=bool((lengths_B == tgt_len).all()),
        ).map(lambda tensor: tensor.to(self.device))

    def empty(
        self, n_streams: int, *, mem_len: int = ROOM, precision: Precision = "fp32"
    ) -> Memory:
        """Return memory that has read nothing."""
        dtype = compute_dtype_of(precision)
        memory: Memory = self.model.empty_memory(
            n_streams, mem_len=mem_len, dtype=dtype, device=self.device
        )
        return memory

    def forward(
        self,
        segment: Segment,
        memory: Memory,
        *,
        mode: Mode = "evaluation",
        precision: Precision = "fp32",
    ) -> Output:
        """Read a segment; with gradients in training."""
        self.model.train(mode == "training")
        with torch.set_grad_enabled(mode == "training"), autocast_of(precision, self.device):
            output: Output = self.model(segment, memory, clamp_len=None, same_length=False)
        return output

    def read(self, segment: Segment, memory: Memory, **how: Any) -> Read:
        """Read a segment; of a model that only has sums, the nats are those of `predict`."""
        output = self.forward(segment, memory, **how)
        nats_BT = output.nll_BT
        if nats_BT is None:
            nats_BT = nats_of(self.predict(segment, memory)[0], segment)
        return Read(nats_BT.detach(), detached(output.memory))

    def read_on(self, segments: Sequence[Segment], memory: Memory, **how: Any) -> Read:
        """Read segments one after the other; return the nats of all, and the memory after them."""
        parts = []
        for segment in segments:
            read = self.read(segment, memory, **how)
            parts.append(read.nats_BT)
            memory = read.memory
        return Read(torch.cat(parts, dim=1), memory)

    def predict(self, segment: Segment, memory: Memory) -> tuple[Tensor, Memory]:
        """Return log-probabilities `[B, T, V]` and memory."""
        self.model.eval()
        with torch.no_grad():
            log_probs_BTV, memory = self.model.predict(
                segment, memory, clamp_len=None, same_length=False
            )
        return log_probs_BTV, memory

    def shown(self, segment: Segment) -> str:
        """Return a segment as a finding tells it: its sizes and its tokens."""
        n_streams, n_tokens = segment.tokens_BT.shape
        rows = [
            " ".join([*map(str, row[:length]), *["pad"] * (n_tokens - length)])
            for row, length in zip(
                segment.tokens_BT.tolist(), segment.lengths_B.tolist(), strict=True
            )
        ]
        sizes = f"{counted(n_streams, 'stream')} of {counted(n_tokens, 'token')}"
        text = " | ".join(rows)
        return f"{sizes} [{text if len(text) < 90 else text[:60] + ' …'}]"


def words_of(config: ModelConfig) -> int:
    """Return the size of a vocabulary in which each of a model's clusters has words."""
    return max(_WORDS, config.cutoffs[-1] + 9 if config.cutoffs else 0)


def nats_of(log_probs_BTV: Tensor, segment: Segment) -> Tensor:
    """Return the nats of a segment's targets, 0 where there is none."""
    is_target_BT = segment.targets_BT != IGNORED
    targets_BT1 = segment.targets_BT.clamp(min=0)[..., None]
    nats_BT = -log_probs_BTV.gather(2, targets_BT1)[..., 0]
    return torch.where(is_target_BT, nats_BT, torch.zeros_like(nats_BT))


def changed(memory: Memory, change: Callable[[str, Tensor], Tensor]) -> Memory:
    """Return a memory with `change` applied to each tensor, given its name."""
    values = {
        name: change(name, leaf) if isinstance(leaf, Tensor) else leaf
        for name, leaf in leaves(memory)
    }
    return rebuilt(memory, values)


def detached(memory: Memory) -> Memory:
    """Return a memory without gradient, so that one broken rule breaks no other check."""
    return changed(memory, lambda _, leaf: leaf.detach())


def rows_of(memory: Memory, rows: Sequence[int]) -> Memory:
    """Return the memory of some streams, in that order."""
    return changed(memory, lambda _, leaf: leaf[list(rows)])


def tensors(memory: Memory) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and the tensors of a memory."""
    for name, leaf in leaves(memory):
        if isinstance(leaf, Tensor):
            yield name, leaf


def difference(found_BT: Tensor, expected_BT: Tensor, *, words: str) -> str | None:
    """Return which number is the first to differ, and by how much; None if all are the same.

    Args:
        found_BT: numbers.
        expected_BT: what they should be, in the same shape.
        words: what is said of the expected number, such as "in one segment".
    """
    found, expected = found_BT.double(), expected_BT.double()
    allowed = TOLERANCE * (1 + expected.abs())
    is_off = ~((found - expected).abs() <= allowed)
    if not bool(is_off.any()):
        return None
    row, place = (int(i) for i in is_off.nonzero()[0])
    which = f"token {place + 1} of stream {row + 1}" if len(found) > 1 else f"token {place + 1}"
    return (
        f"{which} has {float(found[row, place]):.6f} nats, "
        f"{float(expected[row, place]):.6f} {words}"
    )


def _widen(model: nn.Module) -> None:
    """Add noise to weights, so that each has the size that lets signals through."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.is_floating_point():
                continue
            spread = float(weight.float().std(correction=0)) if weight.numel() > 1 else 0.0
            wanted = 0.1
            if weight.dim() > 1:
                wanted = (weight.numel() / len(weight)) ** -0.5
            lacking = max(0.0, wanted**2 - spread**2) ** 0.5
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(noise.to(weight.device, weight.dtype), alpha=lacking)
