"""A memory as attention sees it, and how much of it is valid after a segment.

B streams · T tgt_len · M mem_len.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from trainer.protocol import Segment


class Seen(Protocol):
    """A memory of M positions per layer that attention sees, of which the newest are valid."""

    @property
    def layers(self) -> tuple[Tensor, ...]:
        """Return what each layer keeps, `[B, M, …]`, newest last."""

    @property
    def valid_B(self) -> Tensor:  # noqa: N802  # a shape suffix
        """Return how many of a stream's newest positions may be attended to, int64."""

    @property
    def valid_min(self) -> int:
        """Return a lower bound of `valid_B`, known on the host."""

    @property
    def last(self) -> tuple[Tensor, ...]:
        """Return each stream's last token, `[B]`, where the model reads pairs; else ()."""

    @property
    def mem_len(self) -> int:
        """Return M."""

    @property
    def like(self) -> Tensor:
        """Return a tensor of the memory's dtype and device."""


def valid_after(memory: Seen, segment: Segment) -> tuple[Tensor, int]:
    """Return `valid_B` and `valid_min` as they are after a segment."""
    mem_len, tgt_len = memory.mem_len, segment.tokens_BT.shape[1]
    read_B = memory.valid_B + segment.lengths_B
    if (newest_B := newest_documents(segment)) is not None:
        read_B = torch.where(newest_B > 0, newest_B, read_B)
    sure = segment.starts_BT is None and segment.whole
    n_read = memory.valid_min + tgt_len if sure else 0
    return read_B.clamp_max(mem_len), min(mem_len, n_read)


def last_after(last: Sequence[Tensor], segment: Segment) -> tuple[Tensor, ...]:
    """Return each stream's last token after a segment; () where memory has none."""
    if not last:
        return ()
    (last_B,) = last
    newest_B = segment.tokens_BT.gather(1, (segment.lengths_B - 1).clamp_min(0)[:, None])[:, 0]
    return (torch.where(segment.lengths_B > 0, newest_B, last_B),)


def newest_documents(segment: Segment) -> Tensor | None:
    """Return how many tokens a row has read of a document that began in the segment, 0 if none did.

    None if memory is not cut inside the segment.
    """
    if segment.starts_BT is None:
        return None
    last_B = segment.starts_BT.gather(1, (segment.lengths_B - 1).clamp_min(0)[:, None])[:, 0]
    began_B = (last_B >= 0) & (segment.lengths_B > 0)
    return torch.where(began_B, segment.lengths_B - last_B, 0)


def newest_positions(segment: Segment, mem_len: int) -> tuple[Tensor, Tensor]:
    """Return an index of each row's newest M positions, of those of memory and segment."""
    device = segment.lengths_B.device
    row_B1 = torch.arange(len(segment.lengths_B), device=device)[:, None]
    return row_B1, segment.lengths_B[:, None] + torch.arange(mem_len, device=device)
