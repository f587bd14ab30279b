"""Memory of any shape: its tensors by name, streams forgotten, and models' memory checked.

`trainer.protocol.Memory` says what a memory may be. B streams.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from trainer.errors import InputError, first_few
from trainer.protocol import Memory

Leaf = Tensor | int
M = TypeVar("M", bound=Memory)


def leaves(memory: Memory, *, name: str = "memory") -> Iterator[tuple[str, Leaf]]:
    """Yield the names, such as ``memory.cells.0``, and the tensors and numbers of a memory."""
    if not isinstance(memory, tuple):
        yield name, memory
        return
    for field, part in _parts(memory):
        yield from leaves(part, name=f"{name}.{field}")


def rebuilt(like: M, values: Mapping[str, Leaf], *, name: str = "memory") -> M:
    """Return a memory nested as `like` is, with the leaves that `values` holds by name."""
    return cast(M, _rebuilt(like, values, name))


def _rebuilt(like: Memory, values: Mapping[str, Leaf], name: str) -> Memory:
    if not isinstance(like, tuple):
        return values[name]
    parts: list[Any] = [_rebuilt(part, values, f"{name}.{field}") for field, part in _parts(like)]
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)


def _parts(memory: tuple[Memory, ...]) -> list[tuple[Any, Memory]]:
    fields = getattr(memory, "_fields", range(len(memory)))
    return list(zip(fields, memory, strict=True))


def forget_streams(memory: M, keep_B: Tensor, *, unread: M) -> M:
    """Return a memory in which the streams have read nothing where `keep_B` is false.

    The device is not waited for. Multiplying rows by 0 would not do: 0·NaN is NaN.

    Args:
        memory: memory of B streams.
        keep_B: bool, which streams keep their memory.
        unread: memory of one stream that has read nothing.
    """
    before = dict(leaves(unread))
    values: dict[str, Leaf] = {}
    for name, leaf in leaves(memory):
        other = before[name]
        if isinstance(leaf, Tensor):
            keep = keep_B.view(-1, *[1] * (leaf.dim() - 1))
            values[name] = torch.where(keep, leaf, other)
        else:
            values[name] = min(leaf, int(other))
    return rebuilt(memory, values)


def detached(memory: M) -> M:
    """Return a memory with the same tensors, without the graph that computed them."""
    values = {
        name: leaf.detach() if isinstance(leaf, Tensor) else leaf for name, leaf in leaves(memory)
    }
    return rebuilt(memory, values)


def check_attached(memory: Memory) -> None:
    """Refuse memory through which no gradient goes, although it was to be attached.

    Memory without floating-point numbers, or without any numbers, carries none.

    Raises:
        InputError: no tensor is attached to the graph.
    """
    found = [leaf for _, leaf in leaves(memory) if isinstance(leaf, Tensor) and leaf.numel()]
    carrying = [leaf for leaf in found if leaf.is_floating_point()]
    if carrying and not any(leaf.requires_grad for leaf in carrying):
        raise InputError(
            "the memory that the model's forward returns with attached=True is detached, so no "
            "gradient goes from a segment to the one before: let forward detach memory only if "
            "`attached` is false, or use --train.bptt-segments 1"
        )


def check_made(memory: Memory, *, n_streams: int) -> None:
    """Refuse a model's empty memory if it cannot be carried from segment to segment.

    Raises:
        InputError: a part is no tensor and no number, or its first dimension is not the streams.
    """
    _refuse("empty_memory", _misfits(memory, n_streams=n_streams))


def check_returned(memory: Memory, before: Memory) -> None:
    """Refuse the memory that a model's forward pass returns, if it cannot be carried on.

    Raises:
        InputError: a tensor is missing or new, attached to the graph, of another shape or dtype
            than before the segment, or shares its storage with the memory before the segment.
    """
    had, has = dict(leaves(before)), dict(leaves(memory))
    n_streams = next((len(x) for x in had.values() if isinstance(x, Tensor)), 0)
    wrong = _misfits(memory, n_streams=n_streams) or sorted(
        f"{name} is {'missing' if name in had else 'new'}" for name in had.keys() ^ has.keys()
    )
    held = {_storage(leaf) for leaf in had.values() if isinstance(leaf, Tensor) and leaf.numel()}
    for name, leaf in [] if wrong else has.items():
        was = had[name]
        if not isinstance(leaf, Tensor) or not isinstance(was, Tensor):
            if type(leaf) is not type(was):
                wrong.append(f"{name} was a {type(was).__name__} and is a {type(leaf).__name__}")
            continue
        if leaf.requires_grad:
            wrong.append(f"{name} is attached to the graph: detach it")
        if (leaf.shape, leaf.dtype) != (was.shape, was.dtype):
            wrong.append(f"{name} was {_described(was)} and is {_described(leaf)}")
        if leaf.numel() and _storage(leaf) in held:
            wrong.append(f"{name} lies where the memory before it lies: return a new tensor")
    _refuse("forward", wrong)


def _misfits(memory: Memory, *, n_streams: int) -> list[str]:
    wrong = []
    found: Iterator[tuple[str, Any]] = leaves(memory)
    for name, leaf in found:
        if not isinstance(leaf, Tensor | int):
            wrong.append(f"{name} is a {type(leaf).__name__}, no tensor, tuple or number")
        elif isinstance(leaf, Tensor) and leaf.layout != torch.strided:
            wrong.append(f"{name} is {leaf.layout}, which is not carried: make it dense")
        elif isinstance(leaf, Tensor) and leaf.dtype == torch.complex128:
            wrong.append(f"{name} is complex128, which no checkpoint can hold")
        elif isinstance(leaf, Tensor) and leaf.shape[:1] != (n_streams,):
            wrong.append(f"{name} is {_described(leaf)}, not {n_streams} streams first")
    return wrong


def _refuse(method: str, wrong: list[str]) -> None:
    if wrong:
        raise InputError(
            f"the memory that the model's {method} returns cannot be carried on: "
            f"{first_few(wrong, separator='; ')}"
        )


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _described(tensor: Tensor) -> str:
    shape = "×".join(map(str, tensor.shape)) or "a number"
    return f"{shape} in {str(tensor.dtype).removeprefix('torch.')}"
