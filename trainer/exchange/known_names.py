"""Resolving the names in other trainers' pickles, and building the values that they stand for.

A pickle names the functions to call. This module has the few that make tensors and containers, each
with checks of its own. A class of a known package becomes an `Opaque`. Any other name ends the
reading.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainer.exchange.stand_ins import (
    Call,
    Mapping,
    OpaqueClass,
    Refused,
    Storage,
    StorageClass,
    checked_key,
)

#: The most characters of a name.
_MAX_NAME = 200


def find_class(module: str, name: str) -> Any:
    """Return the stand-in for a name in a file.

    Raises:
        Refused: no known checkpoint needs the name.
    """
    module = "builtins" if module == "__builtin__" else module  # protocol 2
    path = f"{module}.{name}"
    if len(path) > _MAX_NAME:
        raise Refused(f"it asks for a name of {len(path):,} characters")
    if path in _BUILT:
        return Call(_BUILT[path])
    if module in ("torch", "torch.storage", "torch.cuda"):
        if name in _STORAGES:
            return StorageClass(_STORAGES[name])
        constant = getattr(torch, name, None)
        if isinstance(constant, torch.dtype | type(torch.strided)):
            return constant
    known = module.split(".")[0] in _KNOWN_PACKAGES or f"{module}.".startswith(_KNOWN_MODULES)
    if not known and path != "torch.device":
        raise Refused(f"it asks for {path}, which no such checkpoint needs")
    return OpaqueClass(path)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """Return a tensor that views a part of a storage, no element twice."""
    if not isinstance(storage, Storage) or not _are_counts((offset, *size, *stride)):
        raise Refused("it makes a tensor of something else than a storage and sizes")
    last = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    numel = math.prod(size)
    if numel > 0 and (offset + last >= len(storage.values) or numel > len(storage.values)):
        raise Refused("it makes a tensor that is larger than its storage")
    if numel == 0:
        return storage.values.new_empty(0).reshape(tuple(min(n, 1) for n in size))
    return torch.as_strided(storage.values, tuple(size), tuple(stride), offset)


def _are_counts(values: tuple[Any, ...]) -> bool:
    return len(values) < 64 and all(type(n) is int and 0 <= n < 1 << 62 for n in values)


def _parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise Refused("it makes a parameter of something else than a tensor")
    return data


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Return bytes from the text as which pickle's protocol 2 writes them."""
    if encoding not in ("latin1", "latin-1"):
        raise Refused("it asks for another encoding than latin-1")
    return text.encode("latin1")


def _mapping(*args: Any) -> Mapping:
    given = args[-1] if args else None
    pairs = given.items() if isinstance(given, dict) else given if isinstance(given, list) else ()
    return Mapping((checked_key(key), value) for key, value in pairs)


def _container(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return a function that makes a container from a list, tuple, set or dict."""

    def make(values: Any = ()) -> Any:
        if not isinstance(values, list | tuple | set | frozenset | dict):
            raise Refused(f"it makes a container of a {type(values).__name__}")
        hashes = kind in (set, frozenset, dict)
        return kind([*map(checked_key, values)] if hashes and kind is not dict else values)

    return make


def _dict(values: Any = ()) -> dict[Any, Any]:
    return {**_mapping(values)}


def _number(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes a number from numbers."""

    def make(*values: Any) -> Any:
        if not all(isinstance(value, int | float) for value in values):
            raise Refused("it converts values to numbers")
        return kind(*values)

    return make


def _text(kind: type[str] | type[bytes]) -> Callable[..., Any]:
    """Return a function that makes a text from a text."""

    def make(value: Any = None) -> Any:
        if value is not None and type(value) is not kind:
            raise Refused("it converts values to text")
        return kind() if value is None else value

    return make


#: The functions and classes that a file may use, by their names in the file.
_BUILT: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _container(tuple),
    "_codecs.encode": _latin1,
    "builtins.long": _number(int),  # Python 2's
    "builtins.unicode": _text(str),
    "builtins.str": _text(str),
    "builtins.bytes": _text(bytes),
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": _mapping,
    "builtins.dict": _dict,
    **{f"builtins.{kind.__name__}": _container(kind) for kind in (frozenset, list, set, tuple)},
    **{f"builtins.{kind.__name__}": _number(kind) for kind in (bool, complex, float, int)},
}

#: PyTorch's storages; one without a dtype holds bytes.
_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
    "_UntypedStorage": torch.uint8,
}

#: Packages whose classes known checkpoints hold; the classes become `Opaque`.
_KNOWN_PACKAGES = {
    "adaptive_softmax",
    "apex",
    "argparse",
    "data_utils",
    "enum",
    "fairseq",
    "log_uniform_sampler",
    "mem_transformer",
    "numpy",
    "omegaconf",
    "pathlib",
    "proj_adaptive_softmax",
    "pytorch_pretrained_bert",
    "pytorch_transformers",
    "re",
    "sacremoses",
    "tokenizers",
    "transformers",
    "typing",
    "utils",
    "vocabulary",
}
_KNOWN_MODULES = ("torch.nn.", "torch.optim.", "torch.cuda.amp.")
