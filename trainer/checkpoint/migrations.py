"""Pure functions that turn checkpoints of older formats into the newest format.

Format 1 had one tensor of memory for all layers, `hidden_LBMD`. Formats 1 and 2 had no index, and
each parameter whole in one rank's file. L layers · B streams · M mem_len · D d_model.
"""

import math
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


def whole_parts(shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int, int]]:
    """Return name, first element and size of each part in a file that holds parameters whole.

    Every file of weights of format 1 or 2 is such a file; its parameters' shapes are the argument.
    """
    return [(name, 0, math.prod(shape)) for name, shape in shapes.items() if 0 not in shape]
