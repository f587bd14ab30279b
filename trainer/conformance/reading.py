"""Checks of reading: what a stream's nats may depend on, which is its own text alone.

Each check yields its findings from the smallest input up; the first is the one that is told.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from trainer.conformance.subject import (
    Finding,
    Mode,
    Subject,
    changed,
    difference,
    rows_of,
)
from trainer.protocol import Memory, Segment

#: Borders of segments of a longer text.
_CUT_OFTEN = ((0, 1, 2, 3, 4, 5), (0, 7, 8, 19, 24), (0, 9, 10, 11, 12, 40))
#: Tokens of each row of a padded segment.
_PADDED = ([1, 2], [2, 1], [0, 1], [3, 0, 1], [2, 5, 3])
#: Streams and tokens of segments read side by side.
_SIDE_BY_SIDE = ((2, 1), (2, 2), (3, 3), (5, 4))


def cuts(subject: Subject) -> Iterator[Finding]:
    """Yield where a text that is cut into segments has other nats than in one."""
    cut_once = ((0, cut, end) for end in range(2, 7) for cut in range(1, end))
    for borders in (*cut_once, *_CUT_OFTEN):
        for n_streams in (1, 2):
            for mode in subject.modes:
                rows = range(n_streams)
                whole = subject.piece(0, borders[-1], rows=rows)
                parts = [subject.piece(a, b, rows=rows) for a, b in pairwise(borders)]
                memory = subject.empty(n_streams)
                seen = difference(
                    subject.read_on(parts, memory, mode=mode).nats_BT,
                    subject.read(whole, subject.empty(n_streams), mode=mode).nats_BT,
                    words="in one segment",
                )
                if seen:
                    where = ", ".join(map(str, borders[1:-1][:8]))
                    yield Finding(f"{subject.shown(whole)} cut after {where}", seen)


def padding(subject: Subject) -> Iterator[Finding]:
    """Yield where what stands in padding is read, or a row without tokens loses its memory."""
    for lengths in _PADDED:
        for mode in subject.modes:
            yield from _padded(subject, lengths, mode)


def _padded(subject: Subject, lengths: list[int], mode: Mode) -> Iterator[Finding]:
    rows = range(len(lengths))
    memory = subject.read(subject.piece(0, 2, rows=rows), subject.empty(len(lengths))).memory
    whole = subject.piece(2, 2 + max(lengths), rows=rows)
    segment, other = (
        subject.segment(_filled(whole.tokens_BT, lengths, pad), whole.targets_BT, lengths=lengths)
        for pad in (0, subject.vocabulary_size - 1)
    )
    read, again = (subject.read(one, memory, mode=mode) for one in (segment, other))
    where = subject.shown(segment)
    seen = difference(again.nats_BT, read.nats_BT, words="with other words in the padding")
    seen = seen or _memory_differs(
        subject, again.memory, read.memory, rows, mode, "with other words in the padding"
    )
    if seen:
        yield Finding(where, seen)
    for row, length in enumerate(lengths):
        own = rows_of(memory, [row])
        if length:
            own = subject.read(subject.piece(2, 2 + length, rows=[row]), own, mode=mode).memory
        words = "if the row is read without padding" if length else "if the row is left out"
        found = rows_of(read.memory, [row])
        seen = _memory_differs(subject, found, own, [row], mode, words)
        if seen:
            yield Finding(f"{where}, stream {row + 1}", seen)


def _filled(tokens_BT: Tensor, lengths: list[int], pad: int) -> Tensor:
    is_pad_BT = torch.arange(tokens_BT.shape[1]) >= torch.tensor(lengths)[:, None]
    return tokens_BT.cpu().masked_fill(is_pad_BT, pad)


def _memory_differs(
    subject: Subject, found: Memory, expected: Memory, rows: Sequence[int], mode: Mode, words: str
) -> str | None:
    """Return how the nats of the next tokens differ from two memories; None if they do not."""
    after = subject.piece(20, 22, rows=rows)
    one, other = (subject.read(after, memory, mode=mode).nats_BT for memory in (found, expected))
    seen = difference(one, other, words=words)
    return f"of the segment after it, {seen}" if seen else None


def company(subject: Subject) -> Iterator[Finding]:
    """Yield where a stream's nats depend on the streams beside it, or on its place among them."""
    for n_streams, n_tokens in _SIDE_BY_SIDE:
        for mode in subject.modes:
            rows = list(range(n_streams))
            for order in (rows, rows[::-1]):
                found = subject.read_on(
                    _two(subject, n_tokens, order), subject.empty(n_streams), mode=mode
                )
                for place, row in enumerate(order):
                    pieces = _two(subject, n_tokens, [row])
                    alone = subject.read_on(pieces, subject.empty(1), mode=mode)
                    nats_1T = found.nats_BT[place : place + 1]
                    seen = difference(nats_1T, alone.nats_BT, words="if the stream is read alone")
                    if seen:
                        first = _two(subject, n_tokens, order)[0]
                        where = f"{subject.shown(first)} and as many again, stream {place + 1}"
                        yield Finding(f"{where}, in {mode}", seen)


def _two(subject: Subject, n_tokens: int, rows: Sequence[int]) -> list[Segment]:
    return [subject.piece(i * n_tokens, (i + 1) * n_tokens, rows=rows) for i in (0, 1)]


def hidden(subject: Subject) -> Iterator[Finding]:
    """Yield where a pass depends on passes before it, by another way than the memory it is given.

    The same pass is run twice, and once more after another text was read as in training.
    """
    for n_tokens in (1, 2, 5):
        piece = subject.piece(0, n_tokens)
        other = subject.piece(30, 30 + n_tokens, rows=[1])
        for mode in subject.modes:
            memory = subject.read(subject.piece(50, 52), subject.empty(1), mode=mode).memory
            first = subject.read(piece, memory, mode=mode)
            second = subject.read(piece, memory, mode=mode)
            seen = difference(second.nats_BT, first.nats_BT, words="the first time")
            if seen:
                yield Finding(f"{subject.shown(piece)} read twice, in {mode}", seen)
            subject.read(other, subject.empty(1), mode="training")
            third = subject.read(piece, memory, mode=mode)
            seen = difference(third.nats_BT, first.nats_BT, words="before another text was read")
            if seen:
                yield Finding(f"{subject.shown(piece)}, another text, and the same again", seen)


def nan(subject: Subject) -> Iterator[Finding]:
    """Yield where a memory of NaN in one stream changes another."""
    for n_streams, n_tokens in _SIDE_BY_SIDE:
        rows = list(range(n_streams))
        for mode in subject.modes:
            first, second = _two(subject, n_tokens, rows)
            memory = subject.read(first, subject.empty(n_streams), mode=mode).memory
            bad = changed(memory, _last_poisoned)
            well = subject.read(second, memory, mode=mode)
            ill = subject.read(second, bad, mode=mode)
            words = "with its own memory alone"
            seen = difference(ill.nats_BT[:-1], well.nats_BT[:-1], words=words)
            seen = seen or _memory_differs(
                subject,
                rows_of(ill.memory, rows[:-1]),
                rows_of(well.memory, rows[:-1]),
                rows[:-1],
                mode,
                words,
            )
            if seen:
                where = f"{subject.shown(second)}, the memory of stream {n_streams} is NaN"
                yield Finding(where, seen)


def _last_poisoned(name: str, leaf: Tensor) -> Tensor:
    if not leaf.is_floating_point():
        return leaf
    poisoned = leaf.clone()
    poisoned[-1] = float("nan")
    return poisoned
