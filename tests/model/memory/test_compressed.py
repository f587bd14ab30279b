"""Compressed memory holds what a reader of one token after another would hold."""

import pytest
import torch
from builders import CPU, segment_of
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.model.memory.compressed import CompressedInputs, Lengths, empty_memory, move, resized

#: Per segment and row, how many tokens it reads, and which of its tokens start a document.
Read = list[tuple[list[int], list[list[bool]]]]


class Reader:
    """One row of one layer, in lists: its inputs, and the means that older ones have left."""

    def __init__(self, mem_len: int, lengths: Lengths) -> None:
        self.mem_len, self.lengths = mem_len, lengths
        self.inputs: list[float] = []
        self.made: list[float] = []

    def read(self, value: float, *, starts: bool) -> None:
        """Read a token."""
        if starts:
            self.inputs, self.made = [], []
        self.inputs.append(value)
        compressed_len, rate = self.lengths
        if len(self.inputs) == self.mem_len + rate:
            block, self.inputs = self.inputs[:rate], self.inputs[rate:]
            self.made = [*self.made, sum(block) / rate][-compressed_len:]


def empty(n_streams: int, mem_len: int, lengths: Lengths) -> CompressedInputs:
    return empty_memory(2, n_streams, mem_len, 1, lengths, dtype=torch.float64, device=CPU)


def read(
    memory: CompressedInputs,
    values_BT: list[list[float]],
    lengths_B: list[int],
    starts_BT: list[list[int]] | None,
    lengths: Lengths,
) -> CompressedInputs:
    """Return memory after a segment; the second layer's inputs are negative."""
    x_BTD = torch.tensor(values_BT, dtype=torch.float64)[:, :, None]
    starts = None if starts_BT is None else torch.tensor(starts_BT)
    segment = segment_of(x_BTD[:, :, 0].long() * 0, lengths=lengths_B, starts_BT=starts)
    moved, layers = move(memory, segment, lengths), []
    for old_BKD, now_BTD in zip(memory.layers, (x_BTD, -x_BTD), strict=True):
        x_BSD = torch.cat([old_BKD, now_BTD], dim=1)
        made_BJD = moved.inputs(x_BSD).unflatten(1, (-1, lengths.rate)).mean(dim=2)
        layers.append(moved.after(x_BSD, made_BJD))
    return CompressedInputs(tuple(layers), moved.valid_B, moved.inputs_B)


def assert_holds(memory: CompressedInputs, row: int, reader: Reader) -> None:
    """Check a row of memory: what it holds, where, and zeros elsewhere."""
    expected = [*reader.made, *reader.inputs]
    n_all = memory.mem_len
    assert int(memory.inputs_B[row]) == len(reader.inputs)
    assert int(memory.valid_B[row]) == len(expected) <= n_all
    for sign, layer_BKD in zip((1, -1), memory.layers, strict=True):
        found = layer_BKD[row, :, 0].tolist()
        assert found[: n_all - len(expected)] == [0] * (n_all - len(expected))
        assert found[n_all - len(expected) :] == pytest.approx([sign * x for x in expected])


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, Lengths, int, Read]:
    """Draw mem_len, what is kept, tgt_len, and segments of two rows."""
    mem_len, tgt_len = draw(st.integers(0, 5)), draw(st.integers(1, 7))
    lengths = Lengths(draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    row = st.integers(0, tgt_len)
    marks = st.lists(st.booleans(), min_size=tgt_len, max_size=tgt_len)
    pair = st.tuples(st.tuples(row, row).map(list), st.tuples(marks, marks).map(list))
    return mem_len, lengths, tgt_len, draw(st.lists(pair, min_size=1, max_size=6))


@given(histories(), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=200)
def test_it_is_that_of_a_reader_of_one_token_after_another(
    history: tuple[int, Lengths, int, Read], documents: bool, full: bool
) -> None:
    mem_len, lengths, tgt_len, segments = history
    memory = empty(2, mem_len, lengths)
    readers = [Reader(mem_len, lengths) for _ in range(2)]
    number = 0.0
    for numbers, marks in segments:
        counts = [tgt_len, tgt_len] if full else numbers
        values = [[-9.0] * tgt_len for _ in range(2)]
        starts = [[-1] * tgt_len for _ in range(2)]
        for row in range(2):
            began = -1
            for place in range(counts[row]):
                is_start = documents and marks[row][place]
                began = place if is_start else began
                number += 1
                values[row][place], starts[row][place] = number, began
                readers[row].read(number, starts=is_start)
        memory = read(memory, values, counts, starts if documents else None, lengths)
        for row in range(2):
            assert_holds(memory, row, readers[row])


@given(
    st.integers(0, 6), st.integers(0, 6), st.integers(1, 3), st.integers(1, 4), st.integers(0, 40)
)
@settings(deadline=None)
def test_resized_it_holds_the_newest_and_goes_on(
    before: int, after: int, compressed_len: int, rate: int, n_read: int
) -> None:
    """Blocks still end where they would have ended."""
    lengths = Lengths(compressed_len, rate)
    reader = Reader(before, lengths)
    for value in range(n_read):
        reader.read(float(value), starts=False)
    memory = empty(1, before, lengths)
    if n_read:
        memory = read(memory, [[float(v) for v in range(n_read)]], [n_read], None, lengths)
    memory = resized(memory, after, lengths)
    reader.mem_len = after
    if len(reader.inputs) >= after + rate:
        reader.made = []
        while len(reader.inputs) >= after + rate:
            del reader.inputs[:rate]
    assert_holds(memory, 0, reader)
    for value in (100.0, 101.0, 102.0):
        memory = read(memory, [[value]], [1], None, lengths)
        reader.read(value, starts=False)
        assert_holds(memory, 0, reader)
