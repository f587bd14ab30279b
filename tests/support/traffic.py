"""Counts what ranks send: the collectives that reach PyTorch's dispatcher, whoever called them."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: How often a collective sends the whole of its data, less each rank's own part.
PASSES = {
    "allreduce_": 2,
    "reduce_": 1,
    "_reduce_scatter_base_": 1,
    "_allgather_base_": 1,
    "allgather_": 1,
    "broadcast_": 1,
    "gather_": 1,
    "barrier": 0,
}


class Traffic(TorchDispatchMode):
    """A sum of the bytes that each of `n_ranks` sends in the mean, while it is entered.

    They are those of the best algorithm, a ring: all-reduce 2(n-1)/n of the data, every other
    collective (n-1)/n of it. A collective that is not in `PASSES` is an error.
    """

    def __init__(self, n_ranks: int) -> None:
        super().__init__()
        self.bytes_by_collective: dict[str, float] = {}
        self._n_ranks = n_ranks

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func.overloadpacket.__name__
            size = PASSES[name] * max(map(n_bytes, args)) * (1 - 1 / self._n_ranks)
            self.bytes_by_collective[name] = self.bytes_by_collective.get(name, 0) + size
        return func(*args, **(kwargs or {}))


def n_bytes(argument: Any) -> int:
    """Return the bytes of all tensors in a collective's input or, of a gathering, in its output."""
    tensors = (leaf for leaf in tree_leaves(argument) if isinstance(leaf, torch.Tensor))
    return sum(tensor.nbytes for tensor in tensors)
