"""Memories are kept by name, shape and dtype, and read by stream, whoever had them before."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from saved_checkpoints import Trained, save
from torch import Tensor

from trainer.checkpoint.contents.memories import memory_tensors, read_memories
from trainer.checkpoint.contents.tensor_files import save_tensors
from trainer.errors import InputError
from trainer.model.memory.inputs import LayerInputs


class Carried(NamedTuple):
    """A memory of three dtypes, as many shapes, and a number."""

    matrix: tuple[Tensor, Tensor]
    shift: Tensor
    seen: Tensor
    n_read: int


def carried(ids: list[int], *, n_read: int = 0) -> Carried:
    """Return memory whose values tell the stream they belong to."""
    stream = torch.tensor(ids)
    wide = stream.double()[:, None, None, None, None].expand(-1, 2, 2, 3, 3)
    narrow = stream.to(torch.bfloat16)[:, None].expand(-1, 5)
    return Carried(
        (wide + 0.25, wide + 0.5), narrow.contiguous(), stream[:, None] > 1, n_read=n_read
    )


def written(folder: Path, ranks: list[list[tuple[list[int], Carried]]]) -> Path:
    """Return a checkpoint's folder with a file of each rank's memories."""
    for rank, memories in enumerate(ranks):
        save_tensors(memory_tensors(memories), folder / f"memory-{rank:05d}.safetensors")
    return folder


def test_every_tensor_comes_back_with_its_own_dtype_and_shape_on_other_ranks(
    tmp_path: Path,
) -> None:
    one = [([0, 2], carried([0, 2], n_read=3)), ([1, 3], carried([1, 3], n_read=7))]
    two = [([4, 5], carried([4, 5], n_read=5))]
    path = written(tmp_path, [one, two])
    wanted = [[5, 1, 0], [3]]
    found = read_memories(path, wanted, unread=[carried([9] * len(ids)) for ids in wanted])
    for ids, memory in zip(wanted, found, strict=True):
        assert isinstance(memory, Carried)
        expected = carried(ids)
        for one_matrix, other in zip(memory.matrix, expected.matrix, strict=True):
            assert one_matrix.dtype == torch.float64
            assert torch.equal(one_matrix, other)
        assert memory.shift.dtype == torch.bfloat16
        assert torch.equal(memory.shift, expected.shift)
        assert torch.equal(memory.seen, expected.seen)
    # What the host knows of streams that come together is the least of what it knew of each.
    assert [memory.n_read for memory in found if isinstance(memory, Carried)] == [3, 7]


def test_what_is_saved_is_a_copy() -> None:
    memory = carried([0, 1])
    kept = memory_tensors([([0, 1], memory)])
    memory.shift.add_(1)
    assert torch.equal(kept["memory.shift"], carried([0, 1]).shift)


def test_a_memory_in_any_layout_is_saved(tmp_path: Path) -> None:
    memory = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    save_tensors(memory_tensors([([0, 1], memory)]), tmp_path / "memory-00000.safetensors")
    (found,) = read_memories(tmp_path, [[1, 0]], unread=[torch.zeros(2, 3, 4, 5)])
    assert isinstance(found, Tensor)
    assert torch.equal(found, memory[[1, 0]])


def test_memory_is_read_in_the_dtype_of_the_model_that_reads_it(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (whole,) = read_memories(path, [[0, 1, 2, 3]], unread=[Trained.unread(4)])
    assert isinstance(whole, LayerInputs)
    assert whole.valid_B.tolist() == [2, 1, 3, 0]  # by stream; rows were 3, 1, 0, 2
    unread = [Trained.unread(1, dtype=torch.bfloat16), Trained.unread(2, dtype=torch.bfloat16)]
    first, second = read_memories(path, [[2], [3, 1]], unread=unread)
    assert isinstance(first, LayerInputs)
    assert isinstance(second, LayerInputs)
    for layer, of_first, of_second in zip(whole.layers, first.layers, second.layers, strict=True):
        assert torch.equal(of_first, layer[[2]].bfloat16())
        assert torch.equal(of_second, layer[[3, 1]].bfloat16())


def test_a_memory_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, [[([0], carried([0]))]])
    other = carried([0])._replace(shift=torch.zeros(1, 6), matrix=(torch.zeros(1, 2),))  # type: ignore[arg-type]
    told = "does not fit the model: " + (
        r"memory\.matrix\.0 is 2×2×3×3, the model's 2; "
        r"memory\.matrix\.1 is 2×2×3×3, the model's missing; memory\.shift is 5, the model's 6"
    )
    with pytest.raises(InputError, match=told):
        read_memories(path, [[0]], unread=[other])
