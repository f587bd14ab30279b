"""What checkpoints of older formats hold, as the newest format has it: pure functions.

Format 1 knew one shape of memory, Transformer-XL's: `hidden_LBMD` of all layers together. L layers
· B streams · M mem_len · D d_model.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

_HIDDEN = "hidden_LBMD"


def is_of_format_1(names: Iterable[str]) -> bool:
    """Return whether tensors of these names are a memory of format 1."""
    return _HIDDEN in names


def memory_from_format_1(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a rank's memory file: a tensor for each layer, and the bound that was not saved."""
    layers = {f"memory.layers.{i}": x for i, x in enumerate(tensors[_HIDDEN])}
    valid_B = tensors["valid_B"]
    counts = {"memory.valid_B": valid_B, "memory.valid_min": valid_B}
    return {"stream_ids": tensors["stream_ids"], **layers, **counts}
