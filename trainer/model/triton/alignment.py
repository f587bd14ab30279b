"""Padding rows to widths that a GPU computes fast.

A GPU's matrix units read rows fast that begin at multiples of 16 bytes, so a width of 410 or 41 is
stored as 416 or 48. Weights are padded with zeros where they are used, so all results are padded
with zeros too. No result changes, and the gradients of pads are dropped. Parameters and checkpoints
keep their widths, and so does the memory of layer inputs.
"""

import torch.nn.functional as F
from torch import Tensor

#: The length of a row is a multiple of so many elements: 16 bytes in 16-bit types, 32 in fp32.
ALIGNMENT = 8


def stored(width: int) -> int:
    """Return how many elements a row of `width` takes."""
    return -(-width // ALIGNMENT) * ALIGNMENT


def aligned(x: Tensor, *, dim: int = -1) -> Tensor:
    """Return `x` padded with zeros at the end of `dim`; `x` itself where it is aligned."""
    pad = stored(x.shape[dim]) - x.shape[dim]
    if pad == 0:
        return x
    after = x.dim() - 1 - dim % x.dim()
    return F.pad(x, (0, 0) * after + (0, pad))


def aligned_weight(weight: Tensor, *, n_in: int = 1, n_out: int = 1) -> Tensor:
    """Return a linear layer's weight padded for aligned rows; `weight` itself if that is aligned.

    Args:
        weight: `[out, in]`.
        n_in: the number of rows that lie side by side in the layer's input, each aligned.
        n_out: the number of aligned rows that lie side by side in its output.
    """
    n_rows, n_columns = weight.shape
    if n_rows // n_out % ALIGNMENT == 0 and n_columns // n_in % ALIGNMENT == 0:
        return weight
    blocks = weight.view(n_out, n_rows // n_out, n_in, n_columns // n_in)
    return aligned(aligned(blocks), dim=1).flatten(2).flatten(0, 1)
