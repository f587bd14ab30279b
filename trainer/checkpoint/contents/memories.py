"""Memories in a checkpoint: each rank writes a file; any number of ranks reads them by stream.

``memory-R.safetensors`` of rank R holds ``stream_ids``, the streams of all the rank's slots. Every
tensor of the memory is stored by its name, such as ``memory.layers.0``, with these streams first.
Shapes and dtypes are kept; a number is stored as an int64 per stream.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint.contents.tensor_files import load_tensors, open_tensors, refuse_misfit
from trainer.checkpoint.migrations import is_of_format_1, memory_from_format_1
from trainer.memory_tree import Leaf, leaves, rebuilt
from trainer.protocol import Memory

_IDS = "stream_ids"


def memory_tensors(memories: list[tuple[list[int], Memory]]) -> dict[str, Tensor]:
    """Return copies of one rank's memories, by name, as they are stored in its file.

    Args:
        memories: per slot, the stream ids of its rows and the memory.
    """
    by_name: dict[str, list[Tensor]] = {}
    for ids, memory in memories:
        for name, leaf in leaves(memory):
            rows = leaf.cpu() if isinstance(leaf, Tensor) else torch.full((len(ids),), leaf)
            by_name.setdefault(name, []).append(rows)
    # `cat` keeps a layout such as channels last, in which no file can hold a tensor.
    kept = {name: torch.cat(parts).contiguous() for name, parts in by_name.items()}
    return {_IDS: torch.tensor([stream for ids, _ in memories for stream in ids]), **kept}


def read_memories(path: Path, stream_ids: list[list[int]], *, unread: list[Memory]) -> list[Memory]:
    """Return per slot the saved memory of this rank's streams, from whichever rank saved it.

    Args:
        path: a verified checkpoint.
        stream_ids: per slot, the stream ids of its rows.
        unread: per slot, memory of as many streams that have read nothing; the result has the
            nesting, shapes, dtypes and device of `unread`.

    Raises:
        InputError: the saved memory has other names or shapes.
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
    """Return a file's tensors by name, as slices that read only the rows asked for."""
    tensors = stack.enter_context(open_tensors(file))
    names = list(tensors.keys())
    if is_of_format_1(names):
        return dict(memory_from_format_1(load_tensors(file)))
    return {name: tensors.get_slice(name) for name in names}


def _joined(rows: list[tuple[dict[str, Any], int]], like: Memory, path: Path) -> Memory:
    """Return a memory nested as `like`, whose streams are the given rows of files."""
    shapes = {
        name: tuple(leaf.shape[1:]) if isinstance(leaf, Tensor) else ()
        for name, leaf in leaves(like)
    }
    saved_shapes = {name: tuple(rows_of[:1].shape[1:]) for name, rows_of in rows[0][0].items()}
    refuse_misfit(saved_shapes, shapes, where=path)
    values: dict[str, Leaf] = {}
    for name, leaf in leaves(like):
        read = torch.cat([saved[name][row : row + 1] for saved, row in rows])
        if isinstance(leaf, Tensor):
            values[name] = read.to(leaf.device, leaf.dtype)
        else:
            values[name] = int(read.min())
    return rebuilt(like, values)
