"""What an older format of checkpoints holds is read as the newest one has it."""

from pathlib import Path

import torch
from builders import CPU

from trainer.checkpoint.contents.memories import read_memories
from trainer.checkpoint.contents.tensor_files import save_tensors
from trainer.checkpoint.migrations import is_of_format_1, memory_from_format_1
from trainer.model.memory.inputs import LayerInputs, empty_memory


def test_a_memory_of_format_1_is_one_of_today(tmp_path: Path) -> None:
    hidden_LBMD = torch.randn(2, 3, 4, 5)
    saved = {
        "stream_ids": torch.tensor([2, 0, 1]),
        "hidden_LBMD": hidden_LBMD,
        "valid_B": torch.tensor([4, 1, 3]),
    }
    assert is_of_format_1(saved)
    assert not is_of_format_1(memory_from_format_1(saved))
    save_tensors(saved, tmp_path / "memory-00000.safetensors")
    unread = empty_memory(2, 2, 4, 5, dtype=torch.float32, device=CPU)
    (memory,) = read_memories(tmp_path, [[1, 2]], unread=[unread])
    assert isinstance(memory, LayerInputs)
    assert memory.valid_B.tolist() == [3, 4]
    assert memory.valid_min == 3
    for layer, saved_BMD in zip(memory.layers, hidden_LBMD, strict=True):
        assert torch.equal(layer, saved_BMD[[2, 0]])
