"""The order `documents`: every pair once, piece after piece, and memory that ends with each piece.

A reader that makes the whole list of an epoch stands beside the one that computes each place.
"""

import tracemalloc
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
from builders import empty, segment_of, streams_of, tiny_model, write_split
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config.lengths import Lengths, Stage
from trainer.data import pieces
from trainer.data.corpus import Split
from trainer.data.pieces import PieceOrder, Pieces
from trainer.data.positions import Positions
from trainer.data.shuffle import Shuffle
from trainer.errors import CorpusError
from trainer.protocol import IGNORED, Segment

V = 200


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Return a text in which every token is its own position, and so tells where it came from."""
    folder = tmp_path_factory.mktemp("pieces") / "corpus"
    return write_split(folder, [range(V)], vocabulary_size=V)


class Documents(NamedTuple):
    """Documents by their lengths, some of them of one token, some empty."""

    lengths: list[int]
    piece_tokens: int | None

    @property
    def n_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def starts(self) -> np.ndarray:
        return np.cumsum([0, *self.lengths[:-1]])

    @property
    def pieces(self) -> list[list[int]]:
        """Return the pairs of every piece but empty ones, in the text's order."""
        found = []
        for start, length in zip(self.starts.tolist(), self.lengths, strict=True):
            own = list(range(start, min(start + length, self.n_tokens - 1)))
            most = self.piece_tokens or max(1, len(own))
            found += [own[i : i + most] for i in range(0, len(own), most)]
        return found

    def split(self, text: Split) -> Split:
        n = self.n_tokens
        return replace(text, tokens=text.tokens[:n], n_tokens=n, document_starts=self.starts)

    def numbered(self) -> Pieces:
        return Pieces(
            n_pairs=self.n_tokens - 1, document_starts=self.starts, piece_tokens=self.piece_tokens
        )


@st.composite
def documents(draw: st.DrawFn, *, least_tokens: int = 2) -> Documents:
    lengths = draw(st.lists(st.integers(0, 12), min_size=1, max_size=14))
    first = draw(st.integers(1, 12))
    missing = max(0, least_tokens - first - sum(lengths))
    return Documents([first + missing, *lengths], draw(st.none() | st.integers(1, 9)))


def listed(its: Documents, seeds: tuple[int, int]) -> list[list[int]]:
    """Return the pieces in an epoch's order."""
    numbered = its.numbered()
    begins, lengths = numbered.runs(Shuffle(numbered.n, seeds)(np.arange(numbered.n)))
    found = zip(begins.tolist(), lengths.tolist(), strict=True)
    return [list(range(begin, begin + length)) for begin, length in found if length]


@given(documents(), st.integers(0, 2))
@settings(max_examples=300)
def test_pieces_are_documents_or_equal_parts_of_long_ones(its: Documents, marks: int) -> None:
    with patch.object(pieces, "_MOST_MARKS", 1 << marks):
        numbered = its.numbered()
    begins, lengths = numbered.runs(np.arange(numbered.n))
    found = [
        list(range(begin, begin + length))
        for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True)
    ]
    assert sorted(piece for piece in found if piece) == its.pieces


@given(st.data())
@settings(max_examples=200)
def test_what_ranks_read_is_what_a_list_of_all_pieces_says(
    text: Split, data: st.DataObject
) -> None:
    slots, world_size, micro = (data.draw(st.integers(1, 2)) for _ in range(3))
    n_streams = slots * world_size * micro
    its = data.draw(documents(least_tokens=n_streams + 1))
    tgt_len, bptt_segments = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    seed, epoch = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 2))
    sizes = {"_LEAST_PIECES": data.draw(st.integers(1, 4)), "_MOST_GROUPS": 3, "_AT_ONCE": 5}
    order = listed(its, (seed, epoch))
    assert sorted(order) == its.pieces  # every pair once
    pairs = [pair for piece in order for pair in piece]
    borders = {piece[0] for piece in order}
    bounds = [s * len(pairs) // n_streams for s in range(n_streams + 1)]
    for rank, slot in product(range(world_size), range(slots)):
        streams = streams_of(
            split=its.split(text),
            train_batch_size=n_streams,
            tgt_len=tgt_len,
            bptt_segments=bptt_segments,
            slots=slots,
            rank=rank,
            world_size=world_size,
            epoch_order="documents",
            piece_tokens=its.piece_tokens,
            seed=seed,
        )
        left = [pairs[bounds[s] : bounds[s + 1]] for s in streams.stream_ids(slot).tolist()]
        first = epoch * streams.steps_per_epoch
        for data_step in range(first, first + streams.steps_per_epoch):
            with patch.multiple(pieces, **sizes):
                begins = streams.begins(data_step, slot).tolist()
                segments = streams.segments(data_step, slot)
            assert all(begin == own[0] for begin, own in zip(begins, left, strict=True) if own)
            for segment in segments:
                for row, own in enumerate(left):
                    read, left[row] = own[:tgt_len], own[tgt_len:]
                    assert_reads(segment, row, read, borders)
        assert not any(left)


def assert_reads(segment: Segment, row: int, read: list[int], borders: set[int]) -> None:
    """Make sure that a row reads these pairs, and that memory ends at borders and nowhere else."""
    n, newest, starts = len(read), -1, []
    for i, pair in enumerate(read):
        newest = i if pair in borders else newest
        starts.append(newest)
    assert segment.lengths_B[row] == n
    assert segment.tokens_BT[row, :n].tolist() == read
    assert segment.targets_BT[row, :n].tolist() == [pair + 1 for pair in read]
    if segment.starts_BT is None:
        assert set(starts) <= {-1}
    else:
        assert segment.starts_BT[row, :n].tolist() == starts


@given(documents(), st.permutations(range(6)))
@settings(max_examples=30)
def test_a_place_depends_on_nothing_that_was_read_before(its: Documents, steps: list[int]) -> None:
    def made() -> Positions:
        return Positions(
            n_pairs=its.n_tokens - 1,
            n_streams=1,
            stages=(Stage(0, Lengths(3, 0, 1)), Stage(4, Lengths(5, 0, 2))),
            epoch_order="documents",
            seed=2,
            document_starts=its.starts,
            piece_tokens=its.piece_tokens,
        )

    used, stream = made(), np.array([0])
    for data_step in steps:
        one, other = used.spans(stream, data_step), made().spans(stream, data_step)
        for found, expected in zip(one, other, strict=True):
            assert found.tolist() == expected.tolist()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    its = Documents([7] * 30, piece_tokens=3)
    found = [listed(its, seeds) for seeds in ((1, 0), (1, 1), (1, 2), (2, 0))]
    assert all(one != other for i, one in enumerate(found) for other in found[:i])
    assert all(sorted(order) == its.pieces for order in found)


@pytest.mark.parametrize("memory_reset", ["epoch", "document"])
@pytest.mark.parametrize("tgt_len", [4, 7])
def test_nats_are_those_of_each_piece_read_alone(
    text: Split, tgt_len: int, memory_reset: str
) -> None:
    """Of the parts of a piece that two streams share, each is read alone."""
    its, n_streams, seed = Documents([1, 30, 4, 1, 13, 0, 8, 20, 4], piece_tokens=8), 3, 5
    model, n_pairs = tiny_model(V), its.n_tokens - 1
    streams = streams_of(
        split=its.split(text),
        train_batch_size=n_streams,
        tgt_len=tgt_len,
        slots=1,
        rank=0,
        world_size=1,
        epoch_order="documents",
        piece_tokens=its.piece_tokens,
        memory_reset=memory_reset,
        seed=seed,
    )
    for epoch in range(2):
        found, expected = {}, {}
        for data_step in range(
            epoch * streams.steps_per_epoch, (epoch + 1) * streams.steps_per_epoch
        ):
            if streams.forgets_memory(data_step):
                memory = empty(model, n_streams, 12)
            segment = streams.segment(data_step, 0)
            output = model(segment, memory)
            memory = output.memory
            for target, nats in zip(
                segment.targets_BT.flatten(), output.nll_BT.flatten(), strict=True
            ):
                found[int(target)] = float(nats)
        del found[IGNORED]
        cuts = {s * n_pairs // n_streams for s in range(n_streams + 1)}
        place = 0
        for piece in listed(its, (seed, epoch)):
            inside = [cut - place for cut in cuts if 0 < cut - place < len(piece)]
            for begin, end in pairwise(sorted([0, *inside, len(piece)])):
                run = torch.tensor([piece[begin:end]])
                alone = model(segment_of(run, run + 1), empty(model, 1, 12)).nll_BT[0]
                expected |= dict(zip((run[0] + 1).tolist(), alone.tolist(), strict=True))
            place += len(piece)
        assert found == pytest.approx(expected, rel=1e-9)
        assert len(found) == n_pairs


@pytest.mark.parametrize("piece_tokens", [None, 3])
def test_document_starts_that_were_changed_are_refused(piece_tokens: int | None) -> None:
    starts = np.array([0, 14, 9, 20])
    changed = Pieces(n_pairs=24, document_starts=starts, piece_tokens=piece_tokens)
    order, one = PieceOrder(pieces=changed, seed=1), np.array([1])
    with pytest.raises(
        CorpusError, match=r"2[79] tokens to read, and the split 24, so its document"
    ):
        order.spans(0, one, one, width=1)


def test_of_ten_million_documents_little_is_kept_in_memory(tmp_path: Path) -> None:
    """Their starts, 80 MB, are mapped from the corpus's file."""
    n_documents, length, path = 10_000_000, 300, tmp_path / "docs.npy"
    shape = (n_documents,)
    starts = np.lib.format.open_memmap(path, mode="w+", dtype=np.int64, shape=shape)
    for begin in range(0, n_documents, 1 << 20):
        end = min(n_documents, begin + (1 << 20))
        starts[begin:end] = np.arange(begin, end) * length
    tracemalloc.start()
    order = PieceOrder(
        pieces=Pieces(n_pairs=n_documents * length, document_starts=starts, piece_tokens=2000),
        seed=1,
    )
    places = np.arange(8) * (n_documents * length // 8)
    spans = order.spans(0, places, np.full(8, 100), width=100)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 12 << 20
    assert len(np.unique(spans.pairs_BT)) == 800
