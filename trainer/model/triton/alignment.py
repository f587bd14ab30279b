"""Sizes that computing goes well with: of rows, and of how many there are.

Rows begin at multiples of 16 bytes, as a GPU's matrix units read them fast:
a width of 410 or 41 is stored as 416 or 48. The pads are zeros: in weights, which are padded where
they are used, and so in everything that is made with them; nothing that counts changes, and the
gradient of a pad goes nowhere. Parameters, checkpoints and memory keep the widths that they have.
"""

import torch.nn.functional as F
from torch import Tensor

from trainer.model.kernels import Kernels
from trainer.protocol import IGNORED

#: Elements that a row is a multiple of: 16 bytes in 16 bits, 32 in fp32.
ALIGNMENT = 8
#: Rows of a tail are filled up to multiples of this. Their number differs from step to step, and
#: with it would the sizes of all tensors: a GPU's memory has to be cut anew for each, and oneDNN
#: makes, and keeps, a program for each.
_BUCKET = {Kernels.CPU: 16, Kernels.TRITON: 256}


def stored(width: int) -> int:
    """Return how many elements a row of `width` takes."""
    return -(-width // ALIGNMENT) * ALIGNMENT


def aligned(x: Tensor, *, dim: int = -1) -> Tensor:
    """`x` with zeros after its last elements along `dim`; itself where none are needed."""
    pad = stored(x.shape[dim]) - x.shape[dim]
    if pad == 0:
        return x
    after = x.dim() - 1 - dim % x.dim()
    return F.pad(x, (0, 0) * after + (0, pad))


def aligned_weight(weight: Tensor, *, n_in: int = 1, n_out: int = 1) -> Tensor:
    """A linear layer's weight for aligned rows; itself where it is as it should be.

    Args:
        weight: `[out, in]`.
        n_in: rows that lie side by side in its input, each of which is aligned.
        n_out: likewise in its output.
    """
    n_rows, n_columns = weight.shape
    if n_rows // n_out % ALIGNMENT == 0 and n_columns // n_in % ALIGNMENT == 0:
        return weight
    blocks = weight.view(n_out, n_rows // n_out, n_in, n_columns // n_in)
    return aligned(aligned(blocks), dim=1).flatten(2).flatten(0, 1)


def in_buckets(rows: Tensor, targets: Tensor, kernels: Kernels) -> tuple[Tensor, Tensor]:
    """A tail's positions and targets, filled up with position 0, whose target is ignored."""
    size = _BUCKET[kernels]
    n_buckets = -(-len(rows) // size)
    if kernels is Kernels.TRITON:
        n_buckets = max(1, n_buckets)  # none would be a size of its own
    n_more = n_buckets * size - len(rows)
    return F.pad(rows, (0, n_more)), F.pad(targets, (0, n_more), value=IGNORED)
