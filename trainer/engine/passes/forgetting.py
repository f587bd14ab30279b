"""Forgetting streams in the tensors of a memory, which costs nothing while there is none to forget.

On a GPU a kernel in Triton looks at a flag per stream and leaves the others' rows untouched.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

from trainer.memory_tree import leaves
from trainer.protocol import Memory


def forget_in_place(memory: Memory, keep_B: Tensor, *, unread: Memory) -> None:
    """Empty in place the memory of streams where `keep_B` is false; see `forget_streams`.

    Args:
        memory: memory of B streams, whose tensors no other memory shares; its numbers stay.
        keep_B: bool, which streams keep their memory.
        unread: memory of one stream that has read nothing.
    """
    before = dict(leaves(unread))
    for name, leaf in leaves(memory):
        other = before[name]
        if not isinstance(leaf, Tensor):
            continue
        assert isinstance(other, Tensor), "both memories are the model's"
        if _kernel_takes(leaf):
            from trainer.model.triton.rows.forgetting import overwrite_rows

            overwrite_rows(leaf, keep_B, other)
        else:
            leaf.copy_(torch.where(keep_B.view(-1, *[1] * (leaf.dim() - 1)), leaf, other))


def _kernel_takes(leaf: Tensor) -> bool:
    return leaf.is_cuda and leaf.is_contiguous() and find_spec("triton") is not None
