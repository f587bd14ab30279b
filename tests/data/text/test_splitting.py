"""Shares are held: documents go where they are missed least, or the text is cut in order."""

import random
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.text.pieces import Piece
from trainer.data.text.splitting import (
    MOST_MISSED,
    by_document,
    by_position,
    measure,
    most_missed,
    parse_shares,
    percents,
    place,
)
from trainer.errors import InputError

SHARES = {"train": 98.0, "valid": 1.0, "test": 1.0}


def one_piece_each(lengths: Iterable[int]) -> Iterator[Piece]:
    for length in lengths:
        yield Piece("x" * length, ends_document=True)


def split_of_each(lengths: list[int], shares: dict[str, float]) -> list[str]:
    """Return the split of each document."""
    placement = place(measure(one_piece_each(lengths), shares), shares)
    routed = by_document(one_piece_each(lengths), placement)
    return [name for name, _ in routed]


def came(lengths: list[int], shares: dict[str, float]) -> dict[str, int]:
    names = split_of_each(lengths, shares)
    return {
        name: sum(length for length, got in zip(lengths, names, strict=True) if got == name)
        for name in shares
    }


def long_tailed(n: int, seed: int) -> list[int]:
    """Return lengths as of web pages and books: most are short, a few hold most of the text."""
    pick = random.Random(seed)
    return [int(pick.lognormvariate(5, 1.5)) for _ in range(n)]


@pytest.mark.parametrize("n_documents", [600, 3000, 30_000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shares_of_many_documents_are_held_nearly(n_documents: int, seed: int) -> None:
    lengths = long_tailed(n_documents, seed)
    assert most_missed(SHARES, came(lengths, SHARES)) < 0.03


@pytest.mark.parametrize("n_documents", [30, 60, 120])
@pytest.mark.parametrize("share", [5.0, 10.0])
def test_shares_of_few_documents_are_held_for_the_largest_are_placed_first(
    n_documents: int, share: float
) -> None:
    shares = {"train": 100 - 2 * share, "valid": share, "test": share}
    for seed in range(30):
        assert most_missed(shares, came(long_tailed(n_documents, seed), shares)) < 0.05


@given(
    lengths=st.lists(st.integers(0, 10**6) | st.integers(0, 100), min_size=1, max_size=60),
    shares=st.lists(st.integers(1, 100), min_size=2, max_size=3),
)
def test_every_document_goes_somewhere_and_what_is_foretold_comes(
    lengths: list[int], shares: list[int]
) -> None:
    wanted = dict(zip(("train", "valid", "test"), map(float, shares), strict=False))
    placement = place(measure(one_piece_each(lengths), wanted), wanted)
    got = came(lengths, wanted)
    assert sum(got.values()) == sum(lengths)
    # What is small beside the smallest share is all that is not known before it is read.
    smallest = min(shares) / sum(shares) * sum(lengths) / 64
    for name, foretold in placement.came.items():
        assert abs(got[name] - foretold) <= 2 * smallest + 1


def test_no_single_document_could_go_elsewhere_and_shares_be_missed_much_less() -> None:
    pick = random.Random(3)
    for _ in range(20):
        lengths = [pick.randint(1, 1000) for _ in range(30)]
        shares = {"train": 80.0, "valid": 10.0, "test": 10.0}
        names = split_of_each(lengths, shares)
        missed = most_missed(shares, came(lengths, shares))
        for i in range(len(lengths)):
            for name in shares:
                moved = [*names[:i], name, *names[i + 1 :]]
                there = dict.fromkeys(shares, 0)
                for length, to in zip(lengths, moved, strict=True):
                    there[to] += length
                assert most_missed(shares, there) > missed - 0.2


def test_a_huge_document_goes_to_train_wherever_it_stands() -> None:
    for place_of_it in (0, 1, 2, 500):
        lengths = [100] * 600
        lengths[place_of_it] = 50_000
        names = split_of_each(lengths, SHARES)
        assert names[place_of_it] == "train"
        assert most_missed(SHARES, came(lengths, SHARES)) < 0.1


def test_documents_of_every_length_and_of_every_part_of_the_text_are_held_out() -> None:
    lengths = [length for length in (10, 100, 1000) for _ in range(1000)]
    random.Random(0).shuffle(lengths)
    names = split_of_each(lengths, {"train": 90.0, "valid": 10.0})
    held_out = [i for i, name in enumerate(names) if name == "valid"]
    for length in (10, 100, 1000):
        assert sum(lengths[i] == length for i in held_out) == pytest.approx(100, abs=12)
    for third in range(3):
        part = range(third * 1000, third * 1000 + 1000)
        assert sum(i in part for i in held_out) == pytest.approx(100, abs=30)


def test_no_document_is_most_of_a_split_where_others_hold_the_share() -> None:
    for seed in range(5):
        lengths = long_tailed(600, seed)
        names = split_of_each(lengths, SHARES)
        for name in ("valid", "test"):
            of_split = [length for length, to in zip(lengths, names, strict=True) if to == name]
            assert max(of_split) <= sum(of_split) / 3


def test_small_documents_are_dealt_out_evenly_from_the_first_to_the_last() -> None:
    shares = parse_shares("8,1,1")
    names = split_of_each([10] * 1000, shares)
    assert names[:3] == ["train", "valid", "test"]
    for start in range(0, 1000, 100):
        counts = [names[start : start + 100].count(name) for name in shares]
        assert counts == [80, 10, 10]


def test_a_document_in_pieces_is_not_torn_apart_and_the_order_stays() -> None:
    pieces = [Piece(f"{i} ", ends_document=i % 7 == 6) for i in range(700)]
    shares = parse_shares("1,1")
    routed = list(by_document(pieces, place(measure(pieces, shares), shares)))
    assert [piece for _, piece in routed] == pieces
    for start in range(0, 700, 7):
        assert len({name for name, _ in routed[start : start + 7]}) == 1


def test_measuring_takes_no_memory_per_document() -> None:
    def peak(n_documents: int) -> int:
        pick = random.Random(0)
        pieces = (Piece("x" * pick.randint(1, 99), ends_document=True) for _ in range(n_documents))
        tracemalloc.start()
        sizes = measure(pieces, SHARES)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sizes.n_documents == n_documents
        return most

    assert peak(200_000) < 1.2 * peak(20_000)


def cut(text: str, shares: dict[str, float], *, piece_len: int, **how: bool) -> dict[str, str]:
    starts = range(0, len(text), piece_len)
    pieces = [Piece(text[i : i + piece_len], i + piece_len >= len(text)) for i in starts]
    texts = dict.fromkeys(shares, "")
    ends = []
    for name, piece in by_position(pieces, shares, n_characters=len(text), **how):  # type: ignore[arg-type]
        texts[name] += piece.text
        ends += [name] * piece.ends_document
    assert ends == list(shares)
    assert "".join(texts.values()).replace("\n", " ") == text.replace("\n", " ")
    return texts


@pytest.mark.parametrize("piece_len", [1, 3, 7, 100, 1000])
def test_a_text_cut_by_position_is_cut_at_the_very_character(piece_len: int) -> None:
    text = "".join(chr(33 + i % 90) for i in range(1000))
    got = cut(text, parse_shares("90,5,5"), piece_len=piece_len, whole_lines=False)
    assert got == {"train": text[:900], "valid": text[900:950], "test": text[950:]}


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("piece_len", [1, 4, 9, 10, 11, 1000])
def test_a_text_cut_by_position_can_be_cut_at_line_ends(piece_len: int, line_end: str) -> None:
    lines = [f"line {i:04}{line_end}" for i in range(100)]
    text, n = "".join(lines), len(lines[0])
    got = cut(text, parse_shares("89.5,5,5.5"), piece_len=piece_len, whole_lines=True)
    assert got == {"train": text[: 90 * n], "valid": text[90 * n : 95 * n], "test": text[95 * n :]}


@pytest.mark.parametrize("piece_len", [1, 6, 13, 999, 99_999])
def test_a_line_longer_than_its_share_is_cut_between_words(piece_len: int) -> None:
    text = "one two three four " * 500 + "end"
    shares = parse_shares("90,5,5")
    got = cut(text, shares, piece_len=piece_len, whole_lines=True)
    words = [word for part in got.values() for word in part.split()]
    assert words == text.split()
    assert [part[-1] for part in got.values()] == ["\n", "\n", "d"]  # two blanks ended lines
    assert most_missed(shares, {name: len(part) for name, part in got.items()}) < 0.05


@pytest.mark.parametrize("piece_len", [1, 13, 99_999])
def test_a_text_without_spaces_is_cut_at_the_very_character(piece_len: int) -> None:
    text = "文" * 1000
    got = cut(text, parse_shares("90,5,5"), piece_len=piece_len, whole_lines=True)
    assert [len(part) for part in got.values()] == [900, 50, 50]


def test_a_text_of_documents_is_cut_at_their_ends_where_one_is_near() -> None:
    pieces = list(one_piece_each([10] * 100))
    routed = by_position(pieces, SHARES, n_characters=1000, whole_lines=True)
    counts = dict.fromkeys(SHARES, 0)
    for name, piece in routed:
        assert piece == pieces[0]
        counts[name] += 1
    assert counts == {"train": 98, "valid": 1, "test": 1}


def test_how_much_is_missed_is_told_in_parts_of_the_share() -> None:
    assert most_missed({"a": 80, "b": 20}, {"a": 80, "b": 20}) == 0
    assert most_missed({"a": 8, "b": 2}, {"a": 90, "b": 10}) == pytest.approx(MOST_MISSED)
    assert most_missed({"a": 50, "b": 50}, {"a": 0, "b": 10}) == pytest.approx(1)
    assert percents({"a": 8, "b": 1, "c": 1}) == "80/10/10"
    assert percents({"a": 976.04, "b": 13.5, "c": 10.46}) == "97.6/1.4/1"
    assert percents({"a": 99.99, "b": 0.01}) == "100/0.01"


@pytest.mark.parametrize("split", ["", "98", "98,1,1,1", "98,0,2", "a,b", "1,-1", "nan,1", "inf,1"])
def test_what_are_no_shares_is_refused(split: str) -> None:
    with pytest.raises(InputError, match=r"--split .*98,1,1"):
        parse_shares(split)
