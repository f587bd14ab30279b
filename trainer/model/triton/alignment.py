"""Widths that computing goes well with.

Rows begin at multiples of 16 bytes, as a GPU's matrix units read them fast:
a width of 410 or 41 is stored as 416 or 48. The pads are zeros: in weights, which are padded where
they are used, and so in everything that is made with them; nothing that counts changes, and the
gradient of a pad goes nowhere. Parameters, checkpoints and memory keep the widths that they have.
"""

import torch.nn.functional as F
from torch import Tensor

#: Elements that a row is a multiple of: 16 bytes in 16 bits, 32 in fp32.
ALIGNMENT = 8


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
