"""Reading pickles that nobody vouches for: tensors and plain values are built, nothing else is.

Old checkpoints are pickles, and a pickle names the functions that it wants called. Here the few
that make tensors and containers are called; a class of a known checkpoint becomes an `Opaque`
that keeps what it was given and does nothing; any other name ends the reading.
"""

import codecs
import pickle
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch._utils import _rebuild_tensor, _rebuild_tensor_v2

from trainer.errors import InputError


class Opaque:
    """Stands for an object of a class that is not here: its name, arguments and state."""

    path = ""
    """Module and name of the class, as the file has them."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Opaque":
        """Keep the arguments, call nothing."""
        made = super().__new__(cls)
        made.args, made.state, made.items = args, None, []
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args: tuple[Any, ...]
        self.state: Any
        self.items: list[Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        """Keep an item of a list."""
        self.items.append(value)

    def extend(self, values: list[Any]) -> None:
        """Keep items of a list."""
        self.items.extend(values)

    @property
    def attributes(self) -> dict[str, Any]:
        """What would be the object's ``__dict__``."""
        slots = self.state if isinstance(self.state, tuple) else (self.state,)
        found: dict[str, Any] = {}
        for part in slots:
            found |= {str(key): value for key, value in part.items()} if _is_dict(part) else {}
        return found


class Mapping(dict[Any, Any]):
    """An ordered, counting or defaulting dict as a plain one; what it defaults to is dropped."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*(arg for arg in args[-1:] if _is_dict(arg) or isinstance(arg, list)))


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


class _Call:
    """A function that a pickle may call, and do nothing else to: no attribute can be set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it would change how tensors are built")


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """What protocol 2 writes for bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return codecs.encode(text, "latin1")


#: What is called or built, by the name in the file.
_BUILT: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _Call(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": _Call(_rebuild_tensor_v2),
    "torch._utils._rebuild_parameter": _Call(_parameter),
    "torch._utils._rebuild_parameter_with_state": _Call(_parameter),
    "torch.Size": tuple,
    "_codecs.encode": _Call(_latin1),
    "builtins.long": int,  # Python 2's
    "builtins.unicode": str,
    "collections.OrderedDict": _Call(Mapping),
    "collections.Counter": _Call(Mapping),
    "collections.defaultdict": _Call(Mapping),
    **{
        f"builtins.{kind.__name__}": kind
        for kind in (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
    },
}

#: Packages whose classes such checkpoints hold; they become `Opaque`.
_KNOWN_PACKAGES = {
    "adaptive_softmax", "apex", "argparse", "data_utils", "enum", "fairseq", "log_uniform_sampler",
    "mem_transformer", "numpy", "omegaconf", "pathlib", "proj_adaptive_softmax",
    "pytorch_pretrained_bert", "pytorch_transformers", "re", "sacremoses", "tokenizers",
    "transformers", "typing", "utils", "vocabulary",
}  # fmt: skip
_KNOWN_MODULES = ("torch.nn.", "torch.optim.", "torch.cuda.amp.")


class Unpickler(pickle.Unpickler):
    """Builds tensors, plain values and `Opaque` objects.

    Raises:
        pickle.UnpicklingError: the file names anything else.
    """

    def __init__(self, file: IO[bytes], **kwargs: Any) -> None:
        super().__init__(file, **({"encoding": "latin1"} | kwargs))
        self._opaque: dict[str, type[Opaque]] = {}

    def find_class(self, module_name: str, global_name: str) -> Any:
        """What stands here for a name in the file."""
        module_name = "builtins" if module_name == "__builtin__" else module_name  # protocol 2
        path = f"{module_name}.{global_name}"
        if path in _BUILT:
            return _BUILT[path]
        if module_name == "torch" and isinstance(
            getattr(torch, global_name, None), torch.dtype | type(torch.strided)
        ):
            return getattr(torch, global_name)
        known = module_name.split(".")[0] in _KNOWN_PACKAGES or f"{module_name}.".startswith(
            _KNOWN_MODULES
        )
        if not known and path != "torch.device":
            raise pickle.UnpicklingError(f"it asks for {path}, which no such checkpoint needs")
        return self._opaque.setdefault(path, type(global_name, (Opaque,), {"path": path}))


def load(file: IO[bytes], **kwargs: Any) -> Any:
    """`pickle.load` with `Unpickler`: this module is a ``pickle_module`` to `torch.load`."""
    return Unpickler(file, **kwargs).load()


def read_pickled(path: Path) -> Any:
    """Read a file of `torch.save` (of any age) or of `pickle.dump`.

    Raises:
        InputError: it is none, is damaged, or asks for more than tensors and plain values.
    """
    try:
        return _torch_load(path) if _is_torch_file(path) else _plain_load(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} is refused: {error}; nothing of it was run") from None
    except Exception as error:  # what a damaged file raises is anything
        if "explicit pickle_module" in str(error):
            hint = "unset TORCH_FORCE_WEIGHTS_ONLY_LOAD: the unpickler here is no less strict"
            raise InputError(f"{path} cannot be read: {hint}") from None
        raise InputError(f"{path} cannot be read as a checkpoint: {error}") from None


def _is_torch_file(path: Path) -> bool:
    """Whether `torch.save` wrote it, by what `torch.load` itself would go by.

    What that would hand to another reader (programs, archives of PyTorch before 0.2) is refused.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if is_zip:
        # PyTorch's own reader: another may see other records in a crafted file.
        records = torch._C.PyTorchFileReader(str(path)).get_all_records()
        if "constants.pkl" in records:
            raise pickle.UnpicklingError("it is a TorchScript program")
        return True
    if tarfile.is_tarfile(path) or zipfile.is_zipfile(path):
        raise pickle.UnpicklingError("it is an archive, but none of torch.save")
    with path.open("rb") as file:  # the older format begins with a pickled number
        try:
            return bool(load(file) == torch.serialization.MAGIC_NUMBER)
        except pickle.UnpicklingError:
            return False


def _torch_load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sources of classes that it cannot find
        ours = sys.modules[__name__]
        return torch.load(path, map_location="cpu", pickle_module=ours, weights_only=False)


def _plain_load(path: Path) -> Any:
    with path.open("rb") as file:
        return load(file)


def module_tensors(module: Opaque, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The state dict of a whole `torch.nn.Module` that was pickled: names and tensors."""
    attributes = module.attributes
    for kind in ("_parameters", "_buffers"):
        for name, value in (attributes.get(kind) or {}).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
    for name, child in (attributes.get("_modules") or {}).items():
        if isinstance(child, Opaque):
            yield from module_tensors(child, f"{prefix}{name}.")


def plain(value: Any) -> Any:
    """`value` with the namespaces and omegaconf containers inside as dicts, lists and scalars."""
    if isinstance(value, Opaque):
        attributes = value.attributes
        if value.path.startswith("omegaconf."):
            return plain(attributes.get("_content", attributes.get("_val")))
        return plain(attributes)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value
