"""Weights that other programs have saved, in safetensors, for a model that reads them.

A file's names are the model's, or the model translates them: its method `translated_weights` takes
all tensors by their names in the file and returns its own by parameter name.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainer.checkpoint.contents.tensor_files import load_tensors, refuse_misfit
from trainer.errors import InputError, first_few
from trainer.outside import read_json, shortened

FILE, INDEX = ".safetensors", ".safetensors.index.json"

Read = Callable[[str, str, int, Tensor], None]


def is_foreign(path: Path) -> bool:
    """Return whether a path names a file of weights, or the index of several."""
    return path.name.endswith((FILE, INDEX))


def foreign_weights(
    path: Path, model: nn.Module, *, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Return a file's weights by the names of a model's parameters.

    Args:
        path: a file of tensors, or the index of several that lie beside it.
        model: the model, maybe on `meta`; buffers of it that the file has are left out.
        shapes: the whole shape of each of its parameters, by name.

    Raises:
        InputError: it is no such file, or its weights are not the model's.
    """
    if not path.is_file():
        raise InputError(f"--init-from {path}: there is no such file")
    tensors = _of_index(path) if path.name.endswith(INDEX) else load_tensors(path)
    if translate := getattr(model, "translated_weights", None):
        tensors = _translated(translate, tensors, path)
    buffers = {name for name, _ in model.named_buffers()}
    weights = {name: tensor for name, tensor in tensors.items() if name not in buffers}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    refuse_misfit(found, shapes, where=path)
    return weights


def reading(weights: Mapping[str, Tensor]) -> Read:
    """Return a function that fills tensors with parts of weights, as `Parts.read` does."""

    def read(name: str, key: str, begin: int, into_N: Tensor) -> None:
        assert key == "weight", "there are no moments"
        into_N.copy_(weights[name].flatten()[begin : begin + into_N.numel()])

    return read


def _of_index(path: Path) -> dict[str, Tensor]:
    """Return the tensors of all files that an index names; they lie beside it."""
    values = read_json(path)
    files = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise InputError(
            f"{path} has no weight_map from tensors to files: name the file of tensors"
        )
    found: dict[str, Tensor] = {}
    for name in sorted(set(files.values())):
        if Path(name).name != name:
            raise InputError(f"{path} names {shortened(name)}, which does not lie beside it")
        found |= load_tensors(path.parent / name)
    if missing := sorted(set(files) - set(found)):
        raise InputError(f"the files of {path} lack {first_few(missing)}: copy all of them")
    return found


def _translated(translate: Any, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    try:
        found = translate(tensors)
    except Exception as error:  # any code
        told = f"{type(error).__name__}: {error}"
        raise InputError(f"the model's translated_weights fails on {path}: {told}") from error
    if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
        raise InputError("the model's translated_weights returns no dict of tensors")
    return found
