"""Stand-ins for the objects of a pickle: plain values, and objects that do nothing."""

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from trainer.errors import InputError

#: The deepest nesting of modules, and the most objects of a configuration or modules of a model.
_MAX_DEPTH, _MAX_OBJECTS = 32, 100_000
#: Python hashes a smaller number to itself, so nobody can choose numbers with equal hashes.
_MAX_KEY = 2**61 - 1


class Refused(pickle.UnpicklingError):
    """An error: the stream asks for more than tensors and plain values."""


class Opaque:
    """A stand-in for an object of a foreign class: its name, arguments, state and items."""

    __slots__ = ("args", "items", "path", "state")

    def __init__(self, path: str, args: tuple[Any, ...]) -> None:
        self.path = path
        self.args = args
        self.state: Any = None
        self.items: list[Any] = []

    @property
    def attributes(self) -> dict[str, Any]:
        """Return the values that would be the object's ``__dict__``."""
        slots = self.state if isinstance(self.state, tuple) else (self.state,)
        found: dict[str, Any] = {}
        for part in slots:
            if isinstance(part, dict):
                found |= {key: value for key, value in part.items() if isinstance(key, str)}
        return found


class OpaqueClass:
    """A stand-in for a foreign class; its objects are `Opaque`."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


class Call:
    """A function that a stream may call. It checks its own arguments."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


class StorageClass:
    """A stand-in for a class of PyTorch's storages: its dtype."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class Storage:
    """The numbers that tensors view."""

    __slots__ = ("values",)

    def __init__(self, values: Tensor) -> None:
        self.values = values


class Mapping(dict[Any, Any]):
    """A plain dict in place of an ordered, counting or defaulting one; the default is dropped."""


def checked_key(key: Any, depth: int = 0) -> Any:
    """Return `key` if a dict or set may hold it.

    Raises:
        Refused: the key is no scalar and no short tuple of scalars: hashing it might never end.
    """
    if isinstance(key, tuple) and len(key) <= 64 and depth < 2:
        for part in key:
            checked_key(part, depth + 1)
    elif isinstance(key, int) and abs(key) >= _MAX_KEY:
        raise Refused("a number is too large for a key")
    elif key is not None and not isinstance(
        key, str | bytes | int | float | Opaque | OpaqueClass | Tensor
    ):
        raise Refused(f"a {type(key).__name__} is no key")
    return key


def module_tensors(module: Opaque) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors of the state dict of a pickled `torch.nn.Module`.

    Raises:
        InputError: its modules contain themselves or one another, or are too many.
    """
    budget = _Budget("modules")
    yield from _module_tensors(module, "", budget)


def _module_tensors(module: Opaque, prefix: str, budget: "_Budget") -> Iterator[tuple[str, Tensor]]:
    attributes = module.attributes
    for kind in ("_parameters", "_buffers"):
        for name, value in as_dict(attributes.get(kind)).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
    for name, child in as_dict(attributes.get("_modules")).items():
        if isinstance(child, Opaque):
            with budget:
                yield from _module_tensors(child, f"{prefix}{name}.", budget)


def plain(value: Any) -> Any:
    """Return `value` with its namespaces and omegaconf containers as dicts, lists and scalars.

    Raises:
        InputError: its objects contain themselves or one another, or are too many.
    """
    return _plain(value, _Budget("configuration"))


def _plain(value: Any, budget: "_Budget") -> Any:
    with budget:
        if isinstance(value, Opaque):
            attributes = value.attributes
            if value.path.startswith("omegaconf."):
                return _plain(attributes.get("_content", attributes.get("_val")), budget)
            return _plain(attributes, budget)
        if isinstance(value, dict):
            return {key: _plain(inner, budget) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [_plain(inner, budget) for inner in value]
    return value


class _Budget:
    """A limit that ends a walk through objects that would take too long."""

    def __init__(self, what: str) -> None:
        self._what, self._depth, self._n_objects = what, 0, 0

    def __enter__(self) -> None:
        self._depth += 1
        self._n_objects += 1
        if self._depth > _MAX_DEPTH or self._n_objects > _MAX_OBJECTS:
            raise InputError(
                f"the checkpoint's {self._what} nests more than {_MAX_DEPTH} deep, or holds more "
                f"than {_MAX_OBJECTS:,} objects"
            )

    def __exit__(self, *_: object) -> None:
        self._depth -= 1


def as_dict(value: Any) -> dict[Any, Any]:
    """Return `value` if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}
