"""Memory holds each stream's newest tokens, all of them real, in a shape that never changes."""

import pytest
import torch
from builders import CPU, segment_of
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.model.memory.inputs import LayerInputs, empty_memory, remember
from trainer.protocol import Segment

L, D = 2, 1
NO_START = -1


def empty(n_streams: int, mem_len: int) -> LayerInputs:
    return empty_memory(L, n_streams, mem_len, D, dtype=torch.float64, device=CPU)


def segment_with(lengths: list[int], tgt_len: int, starts: list[list[int]] | None) -> Segment:
    tokens_BT = torch.zeros(len(lengths), tgt_len, dtype=torch.int64)
    starts_BT = None if starts is None else torch.tensor(starts)
    return segment_of(tokens_BT, lengths=lengths, starts_BT=starts_BT)


def inputs(values_BT: list[list[float]]) -> list[torch.Tensor]:
    """Return per layer the segment as the layer saw it; the second layer's is negative."""
    x_BTD = torch.tensor(values_BT, dtype=torch.float64)[:, :, None]
    return [x_BTD, -x_BTD]


def kept(memory: LayerInputs, row: int) -> list[float]:
    """Return what may be attended of a row's first layer, oldest first."""
    n = int(memory.valid_B[row])
    values: list[float] = memory.layers[0][row, :, 0].tolist()
    return values[len(values) - n :]


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, list[tuple[list[int], list[list[bool]]]]]:
    """Draw mem_len, tgt_len, and per segment each row's length and where documents start in it."""
    mem_len, tgt_len = draw(st.integers(0, 7)), draw(st.integers(1, 5))
    row = st.integers(0, tgt_len)
    marks = st.lists(st.booleans(), min_size=tgt_len, max_size=tgt_len)
    pair = st.tuples(st.tuples(row, row).map(list), st.tuples(marks, marks).map(list))
    return mem_len, tgt_len, draw(st.lists(pair, min_size=1, max_size=5))


@given(histories(), st.booleans())
@settings(deadline=None, max_examples=200)
def test_memory_is_the_newest_real_tokens_of_each_rows_document(
    history: tuple[int, int, list[tuple[list[int], list[list[bool]]]]], documents: bool
) -> None:
    mem_len, tgt_len, segments = history
    memory = empty(2, mem_len)
    read: list[list[float]] = [[], []]
    number = 0.0
    for lengths, marks in segments:
        values: list[list[float]] = [[], []]
        starts = [[NO_START] * tgt_len, [NO_START] * tgt_len]
        for b in range(2):
            newest = NO_START
            for i in range(tgt_len):
                number += 1
                is_real = i < lengths[b]
                if documents and is_real and marks[b][i]:
                    newest, read[b] = i, []
                starts[b][i] = newest
                values[b].append(number if is_real else float("inf"))  # a pad would show
                read[b] += [number] if is_real else []
        segment = segment_with(lengths, tgt_len, starts if documents else None)
        memory = remember(memory, segment, inputs(values))
        assert [layer.shape for layer in memory.layers] == [(2, mem_len, D)] * L
        assert all(layer.isfinite().all() for layer in memory.layers)
        assert torch.equal(memory.layers[1], -memory.layers[0])
        for b in range(2):
            assert kept(memory, b) == read[b][max(0, len(read[b]) - mem_len) :]
        assert memory.valid_min <= memory.valid_B.min()


@pytest.mark.parametrize(("tgt_len", "mem_len"), [(2, 5), (5, 2), (3, 3)])
def test_the_host_knows_when_a_memory_is_full(tgt_len: int, mem_len: int) -> None:
    memory = empty(1, mem_len)
    for n_read in range(tgt_len, 12, tgt_len):
        memory = remember(memory, segment_with([tgt_len], tgt_len, None), inputs([[1.0] * tgt_len]))
        assert memory.valid_min == memory.valid_B.item() == min(mem_len, n_read)


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("mem_len", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2])
def test_gradients_go_through_memory_only_where_it_is_attached(
    mem_len: int, length: int, attached: bool
) -> None:
    x_BTD = torch.ones(1, 2, D, dtype=torch.float64, requires_grad=True)
    read = [2 * x_BTD, 3 * x_BTD]
    memory = remember(empty(1, mem_len), segment_with([length], 2, None), read, attached=attached)
    assert [layer.requires_grad for layer in memory.layers] == [attached] * L
    if attached:
        sum(layer.sum() for layer in memory.layers).backward()
        is_kept = [length - mem_len <= place < length for place in range(2)]
        assert x_BTD.grad is not None
        assert x_BTD.grad.flatten().tolist() == [5.0 * kept for kept in is_kept]


def test_memory_keeps_its_own_dtype_and_is_detached() -> None:
    memory = empty_memory(L, 1, 3, D, dtype=torch.bfloat16, device=CPU)
    x_BTD = torch.ones(1, 2, D, requires_grad=True) * 2
    memory = remember(memory, segment_with([2], 2, None), [x_BTD, x_BTD])
    assert {layer.dtype for layer in memory.layers} == {torch.bfloat16}
    assert not any(layer.requires_grad for layer in memory.layers)
