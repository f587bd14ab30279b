"""Ids and counts of a document do not depend on how it is cut."""

import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import some_text, tokenizer_files, vocabulary_of

from trainer.data.corpus import open_corpus
from trainer.data.prepare.encoding import encode
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.data.text.pieces import LONGEST_WORD, Piece
from trainer.data.text.recutting import whole_words
from trainer.data.vocabulary.files import SymbolVocabulary, Vocabulary, WordVocabulary

KNOWN = some_text(0, n_words=300)
#: What the vocabularies below have not seen.
UNSEEN = "Zebra\u00e9\u0434 "

ends = st.sampled_from(["", " ", "\n", "  \n", "\u3000", "\r\n"])
texts = st.builds(
    lambda before, seed, n_words, after: before + some_text(seed, n_words=n_words) + UNSEEN + after,
    ends,
    st.integers(0, 10**6),
    st.integers(0, 200),
    ends,
)
places = st.lists(st.floats(0, 1), max_size=6)


def document(text: str, places: Sequence[float] = ()) -> list[Piece]:
    """Return a document, cut at places between 0 and 1, but as the reader cuts: in no line end."""
    at = {int(place * len(text)) for place in places} - {0, len(text)}
    bounds = [0, *sorted(i for i in at if text[i - 1 : i + 1] != "\r\n"), len(text)]
    pieces = [Piece(text[a:b], False) for a, b in itertools.pairwise(bounds)]
    return [*pieces[:-1], Piece(pieces[-1].text, True)]


@cache
def made_here() -> dict[str, Vocabulary]:
    known = document(KNOWN)
    as_bytes = document(KNOWN.encode().decode("latin-1"))
    return {
        "words": WordVocabulary.build(known),
        "words in lower case": WordVocabulary.build(known, lowercase=True, min_count=2),
        "characters": SymbolVocabulary.build("characters", known, unk=True),
        "characters and bytes": SymbolVocabulary.build("characters", known, byte_fallback=True),
        "bytes": SymbolVocabulary.build("bytes", as_bytes, all_bytes=True),
        "bytes without line ends": SymbolVocabulary.build(
            "bytes", as_bytes, all_bytes=True, line_ends=False
        ),
        "bytes of an earlier version": SymbolVocabulary.build("bytes", as_bytes, unk=True),
    }


def summed(pieces: list[Piece], vocabulary: Vocabulary) -> tuple[list[int], tuple[int, ...]]:
    """Return all ids, and the sums of all counts."""
    encoded = list(encode(pieces, vocabulary))
    assert [one.ends_document for one in encoded] == [piece.ends_document for piece in pieces]
    counts = [(one.n_words, one.n_characters, *one.lost) for one in encoded]
    ids = [i for one in encoded for i in one.ids.tolist()]
    return ids, tuple(map(sum, zip(*counts, strict=True)))


@pytest.mark.parametrize("name", made_here())
@given(text=texts, places=places)
@settings(max_examples=40, deadline=None)
def test_of_vocabularies_made_here(name: str, text: str, places: list[float]) -> None:
    if name.startswith("bytes"):
        text = text.encode().decode("latin-1")
    vocabulary = made_here()[name]
    assert summed(document(text, places), vocabulary) == summed(document(text), vocabulary)


@pytest.mark.parametrize("name", tokenizer_files())
@given(text=texts, places=places)
@settings(max_examples=10, deadline=None)
def test_of_tokenizers(name: str, text: str, places: list[float]) -> None:
    vocabulary = vocabulary_of(name)
    assert summed(document(text, places), vocabulary) == summed(document(text), vocabulary)


def test_words_longer_than_a_piece_are_words(tmp_path: Path) -> None:
    long = "x" * 100_000
    (tmp_path / "train.txt").write_text("a b c x\n")
    (tmp_path / "test.txt").write_text(f"a {long} b\n{long}\tc {long}")
    for tokenizer in ("words", "bytes", "characters", "bpe"):
        given: dict[str, Any] = {"train": (tmp_path / "train.txt",), "tokenizer": tokenizer}
        if tokenizer == "characters":
            given["unk"] = True  # of the tab
        out = tmp_path / tokenizer
        prepare(PrepareOptions(out=out, test=(tmp_path / "test.txt",), **given))
        split = open_corpus(out).splits["test"]
        assert split.n_words == 8, tokenizer
        if tokenizer == "words":
            assert split.header.n_hidden == 3 * len(long)
    text = (tmp_path / "test.txt").read_text()
    words = WordVocabulary.build(document(text, [0.2, 0.4, 0.6, 0.8])).words
    assert words == ("<eos>", "<unk>", long, "a", "b", "c")


@given(text=texts)
@settings(max_examples=100)
def test_what_characters_lose_is_what_unknown_ones_hide(text: str) -> None:
    known = set(KNOWN)
    for name, n_hidden in (
        ("characters", sum(char not in known for char in text)),
        ("characters and bytes", 0),
    ):
        vocabulary = made_here()[name]
        ids, (_, n_characters, *lost) = summed(document(text), vocabulary)
        assert (n_characters, lost) == (len(text), [n_hidden, 0, 0])
        back = vocabulary.decode(ids)
        assert back == "".join(c if n_hidden == 0 or c in known else "\ufffd" for c in text)


def test_bytes_read_anything(tmp_path: Path) -> None:
    (tmp_path / "valid.bin").write_bytes(bytes(range(256)))
    (tmp_path / "train.txt").write_text(KNOWN)
    options = {
        "train": (tmp_path / "train.txt",),
        "valid": (tmp_path / "valid.bin",),
        "tokenizer": "bytes",
    }
    prepare(PrepareOptions(out=tmp_path / "corpus", format="raw", **options))  # type: ignore[arg-type]
    corpus = open_corpus(tmp_path / "corpus")
    assert isinstance(corpus.vocabulary, SymbolVocabulary)
    appeared = {*KNOWN.encode().decode("latin-1")}
    assert corpus.vocabulary.size == 256
    assert set(corpus.vocabulary.symbols[: len(appeared)]) == appeared
    absent = corpus.vocabulary.symbols[len(appeared) :]
    assert absent == "".join(sorted(absent))
    ids = corpus.splits["valid"].tokens
    assert [ord(corpus.vocabulary.symbols[i]) for i in ids] == [*range(256)]


def test_a_word_without_end_is_cut_at_places_of_its_own() -> None:
    text = f"a  {'x' * (2 * LONGEST_WORD + 5)} b\n{'y' * LONGEST_WORD}"
    words = ["a", "x" * LONGEST_WORD, "x" * LONGEST_WORD, "xxxxx", "b", "y" * LONGEST_WORD]
    vocabulary = WordVocabulary.build(document(text))
    assert {*vocabulary.words} == {"<eos>", "<unk>", *words}
    for places in ([], [0.1, 0.2, 0.3, 0.301, 0.8], [i / 64 for i in range(64)]):
        pieces = document(text, places)
        longest = max(len(piece.text) for piece in pieces)
        assert max(len(piece.text) for piece in whole_words(pieces)) < LONGEST_WORD + 2 * longest
        ids, (n_words, n_characters, *lost) = summed(pieces, vocabulary)
        told = [vocabulary.words[i] for i in ids]
        assert told == [*words[:5], "<eos>", words[5], "<eos>"]
        assert (n_words, n_characters, lost) == (8, len(text), [0, 1, 0])
