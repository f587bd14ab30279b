"""Ids of a document do not depend on how it is cut, whatever a tokenizer does at a text's ends."""

import itertools
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import some_text, tokenizer_files, vocabulary_of
from tokenizers import Tokenizer, models, pre_tokenizers

from trainer.data.text.pieces import Piece, read_pieces
from trainer.data.text.recutting import whole_words, windows
from trainer.data.text.source import TextFile
from trainer.data.vocabulary import stitching
from trainer.data.vocabulary.files import TokenizerVocabulary
from trainer.errors import InputError

NAMES = tuple(tokenizer_files())
texts = st.builds(some_text, st.integers(0, 10**6), n_words=st.integers(1, 1200))
places = st.lists(st.floats(0, 1), max_size=6)


def cut(text: str, places: Sequence[float]) -> list[Piece]:
    """Return a document in pieces, cut at places between 0 and 1; only that of no text is empty."""
    at = sorted({int(place * len(text)) for place in places} - {0, len(text)})
    pieces = [Piece(text[a:b], False) for a, b in itertools.pairwise([0, *at, len(text)])]
    return [*pieces[:-1], Piece(pieces[-1].text, True)]


def encoded_whole(content: dict[str, object], text: str) -> list[int]:
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.encode_special_tokens = True
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def streamed(vocabulary: TokenizerVocabulary, pieces: list[Piece]) -> list[int]:
    arrays = list(vocabulary.encode_pieces(pieces))
    assert len(arrays) == len(pieces)
    return [i for ids in arrays for i in ids.tolist()]


def ends_with(vocabulary: TokenizerVocabulary) -> list[int]:
    return [] if vocabulary.eos_id is None else [vocabulary.eos_id]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dropout"])
@given(text=texts, places=places)
@settings(max_examples=20, deadline=None)
def test_ids_are_those_of_the_whole_document(name: str, text: str, places: list[float]) -> None:
    content = tokenizer_files()[name]
    vocabulary = vocabulary_of(name)
    ids = streamed(vocabulary, cut(text, places))
    whole = encoded_whole(content, text) + ends_with(vocabulary)
    assert ids == whole or are_as_likely(vocabulary, content, ids, whole)


def are_as_likely(
    vocabulary: TokenizerVocabulary, content: Any, one: list[int], other: list[int]
) -> bool:
    """Return whether Unigram finds two encodings of one text equally likely.

    Of such two it takes the one that its rounded sums favour, which depend on all the text before.
    """
    model = content["model"]
    if model["type"] != "Unigram" or vocabulary.decode(one) != vocabulary.decode(other):
        return False
    scores = [math.fsum(model["vocab"][i][1] for i in ids) for ids in (one, other)]
    return math.isclose(*scores, rel_tol=1e-12)


def test_ids_are_those_of_the_whole_file(tmp_path: Path) -> None:
    # Cut as files are cut: before spaces, before line ends, and anywhere in what has neither.
    run = "".join(random.Random(3).choices("我们的语言日本xyz", k=40_000))
    text = some_text(1, n_words=12_000) + run + some_text(2, n_words=6000) + "\tend"
    (tmp_path / "text.txt").write_bytes(text.encode())
    pieces = list(read_pieces([TextFile(tmp_path / "text.txt", "text.txt", "text")]))
    assert len(pieces) > 3
    for name in NAMES:
        if name == "dropout":
            continue
        vocabulary = vocabulary_of(name)
        content = tokenizer_files()[name]
        wanted = encoded_whole(content, text) + ends_with(vocabulary)
        found = streamed(vocabulary, pieces)
        assert found == wanted or are_as_likely(vocabulary, content, found, wanted), name


def test_documents_one_after_the_other_do_not_touch() -> None:
    vocabulary = vocabulary_of("llama-2")
    documents = [some_text(seed, n_words=300) for seed in range(5)] + ["", "a"]
    pieces = [piece for text in documents for piece in cut(text, [0.3, 0.5, 0.52])]
    wanted = [vocabulary.encode(text) + ends_with(vocabulary) for text in documents if text]
    assert streamed(vocabulary, pieces) == list(itertools.chain(*wanted))


def test_what_is_drawn_by_lot_or_added_is_left_out() -> None:
    text = some_text(5, n_words=400)
    dropping = vocabulary_of("dropout")
    assert dropping.encode(text) == dropping.encode(text) == streamed(dropping, cut(text, [0.5]))
    in_template = vocabulary_of("gpt2 with a space before, in a template")
    assert not {0, 1} & {*in_template.encode(text)}


def test_a_document_that_needs_all_of_itself_is_read_whole_up_to_a_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Tokens of seven characters from the very beginning: no piece can know where its own begin.
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.FixedLength(length=7)
    vocabulary = TokenizerVocabulary(json.loads(tokenizer.to_str()))
    text = some_text(0, n_words=1500)
    pieces = cut(text, [0.2, 0.31, 0.4, 0.77])
    assert streamed(vocabulary, pieces) == [0] * -(-len(text) // 7)
    monkeypatch.setattr(stitching, "LONGEST", 1000)
    with pytest.raises(InputError, match=r"depend on text more than 1,000 .* cut the documents"):
        streamed(vocabulary, pieces)


@given(st.lists(st.text("ab \n\t\u3000", min_size=1, max_size=9), min_size=1, max_size=9))
def test_whole_words_are_the_same_text_with_no_word_or_blanks_cut(parts: list[str]) -> None:
    pieces = [Piece(part, i == len(parts) - 1) for i, part in enumerate(parts)]
    recut = list(whole_words(pieces))
    assert "".join(piece.text for piece in recut) == "".join(parts)
    assert [piece.ends_document for piece in recut] == [piece.ends_document for piece in pieces]
    texts = [piece.text for piece in recut if piece.text]
    for before, after in itertools.pairwise(texts):
        assert not before[-1].isspace()
        assert after[0].isspace()


@given(
    st.lists(st.tuples(st.text("abc", min_size=1, max_size=9), st.booleans()), max_size=20),
    st.integers(1, 12),
)
def test_a_window_has_what_stands_around_its_piece(
    parts: list[tuple[str, bool]], reach: int
) -> None:
    pieces = [Piece(text, ends) for text, ends in parts] + [Piece("end", True)]
    found = list(windows(pieces, reach=reach))
    assert [(window.text, *window.ends) for window in found] == pieces
    begin = 0
    for i, window in enumerate(found):
        end = next(k for k in range(i, len(pieces)) if pieces[k].ends_document) + 1
        assert window.before == "".join(piece.text for piece in pieces[begin:i])[-reach:]
        assert window.after == "".join(piece.text for piece in pieces[i + 1 : end])[:reach]
        begin = i + 1 if pieces[i].ends_document else begin
