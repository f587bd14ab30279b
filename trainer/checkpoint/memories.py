"""Memories in a checkpoint: a file of each rank, which any number of ranks reads by stream.

``memory-R.safetensors`` holds every tensor of the memory by its name, ``memory.layers.0``, in its
own shape and dtype, with the streams of all slots first; numbers as an int64 per stream; and which
streams they are, ``stream_ids``. B streams of a slot · N streams that were saved together.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint.migrations import is_of_format_1, memory_from_format_1
from trainer.checkpoint.tensor_files import load_tensors, open_tensors
from trainer.errors import InputError, first_few
from trainer.memory_tree import Leaf, leaves, rebuilt
from trainer.protocol import Memory

_IDS = "stream_ids"


def memory_tensors(memories: list[tuple[list[int], Memory]]) -> dict[str, Tensor]:
    """Return copies of one rank's memories, as its file keeps them.

    Args:
        memories: per slot, the stream ids of its rows and the memory.
    """
    by_name: dict[str, list[Tensor]] = {}
    for ids, memory in memories:
        for name, leaf in leaves(memory):
            rows = leaf.cpu() if isinstance(leaf, Tensor) else torch.full((len(ids),), leaf)
            by_name.setdefault(name, []).append(rows)
    kept = {name: torch.cat(parts) for name, parts in by_name.items()}
    return {_IDS: torch.tensor([stream for ids, _ in memories for stream in ids]), **kept}


def read_memories(path: Path, stream_ids: list[list[int]], *, unread: list[Memory]) -> list[Memory]:
    """Return per slot the saved memory of the streams this rank now reads, whoever had them before.

    Args:
        path: a verified checkpoint.
        stream_ids: per slot, those of its rows.
        unread: per slot, memory of as many streams that have read nothing: its nesting and shapes,
            its device, and the dtypes that what is read becomes.

    Raises:
        InputError: what is saved has other names or shapes.
    """
    with ExitStack() as stack:
        place: dict[int, tuple[dict[str, Any], int]] = {}
        for file in sorted(path.glob("memory-*.safetensors")):
            saved = _opened(file, stack)
            ids = saved.pop(_IDS)[:].tolist()
            place |= {int(stream): (saved, row) for row, stream in enumerate(ids)}
        return [
            _joined([place[stream] for stream in ids], like, path)
            for ids, like in zip(stream_ids, unread, strict=True)
        ]


def _opened(file: Path, stack: ExitStack) -> dict[str, Any]:
    """Return by name what can be sliced: rows are read when asked for."""
    tensors = stack.enter_context(open_tensors(file))
    names = list(tensors.keys())
    if is_of_format_1(names):
        return dict(memory_from_format_1(load_tensors(file)))
    return {name: tensors.get_slice(name) for name in names}


def _joined(rows: list[tuple[dict[str, Any], int]], like: Memory, path: Path) -> Memory:
    """Return a memory of rows of files."""
    _refuse_misfit(rows[0][0], like, path)
    values: dict[str, Leaf] = {}
    for name, leaf in leaves(like):
        read = torch.cat([saved[name][row : row + 1] for saved, row in rows])
        if isinstance(leaf, Tensor):
            values[name] = read.to(leaf.device, leaf.dtype)
        else:
            values[name] = int(read.min())
    return rebuilt(like, values)


def _refuse_misfit(saved: dict[str, Any], like: Memory, path: Path) -> None:
    wanted = {
        name: tuple(leaf.shape[1:]) if isinstance(leaf, Tensor) else ()
        for name, leaf in leaves(like)
    }
    found = {name: tuple(rows[:1].shape[1:]) for name, rows in saved.items()}
    wrong = [
        f"{name} is {_shape(found.get(name))}, the model's {_shape(wanted.get(name))}"
        for name in sorted({*wanted, *found})
        if wanted.get(name) != found.get(name)
    ]
    if wrong:
        told = first_few(wrong, separator="; ")
        raise InputError(f"{path}: its memory is not this model's: {told}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape)) or "a number"
