"""Pure functions that turn checkpoints of older formats into the newest format.

Format 1 had one tensor of memory for all layers, `hidden_LBMD`. L layers · B streams · M mem_len ·
D d_model.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

_HIDDEN = "hidden_LBMD"


def is_of_format_1(names: Iterable[str]) -> bool:
    """Return whether a memory file whose tensors have these names is of format 1."""
    return _HIDDEN in names


def memory_from_format_1(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the newest format of a memory file: a tensor per layer, and `valid_min`."""
    layers = {f"memory.layers.{i}": x for i, x in enumerate(tensors[_HIDDEN])}
    valid_B = tensors["valid_B"]
    counts = {"memory.valid_B": valid_B, "memory.valid_min": valid_B}
    return {"stream_ids": tensors["stream_ids"], **layers, **counts}
