"""A query sees what is valid of memory, and of the segment the keys up to its own."""

import torch
from builders import CPU, segment_of

from trainer.model.memory.inputs import LayerInputs, empty_memory
from trainer.model.memory.sight import hidden_keys


def test_nothing_of_an_empty_memory_is_seen() -> None:
    memory = empty_memory(2, 2, 4, 1, dtype=torch.float32, device=CPU)
    hidden = hidden_keys(memory, segment_of(torch.zeros(2, 3).long()), same_length=False)
    assert hidden[..., :4].all()


def test_rows_are_seen_as_far_as_each_is_valid() -> None:
    memory = LayerInputs(tuple(torch.zeros(2, 2, 4, 1)), torch.tensor([1, 3]), 1)
    hidden = hidden_keys(memory, segment_of(torch.zeros(2, 2).long()), same_length=False)
    assert hidden[0, 0, 1].tolist() == [True, True, True, False, False, False]
    assert hidden[1, 0, 0].tolist() == [True, False, False, False, False, True]
