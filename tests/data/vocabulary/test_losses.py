"""What a tokenizer loses of a text is found, whatever its kind, and counted to the character."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import some_text, tokenizer_files, vocabulary_of

from trainer.data.text.pieces import Piece
from trainer.data.vocabulary.files import Lost

#: What is lost of a text: hidden characters, blanks, line ends among them.
LOSSES = [
    ("llama-2", "the cat sat on\nthe  mat", (0, 0, 0)),
    ("llama-2", "Qу\x07й \u2581", (1, 0, 0)),  # its sign for a space is a space for it
    ("gpt2 with a space before, in a template", "the  Qу\x07й\n", (0, 0, 0)),
    ("gpt2 with a space before, in a template", " the", (0, 1, 0)),  # as "the" is
    ("llama-2 without bytes", "don't известно", (4, 0, 0)),  # "ест" and "о" it has learnt
    ("llama-2 without bytes, unknown ones fused", "don't известно", (4, 0, 0)),
    ("unigram, space before first, split", "zebra qqq 我们 x", (4, 0, 0)),
    ("unigram, space before first, split", " the cat ", (0, 1, 0)),
    ("unigram, space before never, not split", " the cat ", (0, 0, 0)),
    ("words", "the zebra sat\n", (8, 1, 1)),
    ("words", "don't", (0, 2, 1)),  # three words, with no sign that they are one
    ("words between spaces", "the  cat\non", (0, 2, 2)),
    ("bert", "The Café", (3, 0, 1)),
    ("bert", "the\n\ncat ", (0, 3, 3)),
    ("nfc", "the ete\u0301", (4, 0, 0)),
    ("nfkc", "ﬁne \u3000Ⅳ", (2, 1, 0)),
    ("lower case", "The CAT", (4, 0, 0)),
    ("stripped", " the cat \n", (0, 3, 1)),
    ("blanks joined", "the  cat\n\tsat", (0, 3, 2)),
]


def lost(name: str, text: str) -> Lost:
    vocabulary = vocabulary_of(name)
    piece = Piece(text, True)
    [ids] = vocabulary.encode_pieces([piece])
    return vocabulary.lost(piece, ids, starts_document=True)


@pytest.mark.parametrize(("name", "text", "expected"), LOSSES)
def test_what_does_not_come_back_is_counted(
    name: str, text: str, expected: tuple[int, int, int]
) -> None:
    assert lost(name, text) == expected


@pytest.mark.parametrize("name", tokenizer_files())
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_where_nothing_is_lost_the_text_comes_back(name: str, seed: int) -> None:
    text = some_text(seed, n_words=8)
    vocabulary = vocabulary_of(name)
    back = vocabulary.decode(vocabulary.encode(text))
    is_lost = lost(name, text) != Lost()
    assert is_lost == (back.removeprefix(" ") != text.removeprefix(" ")) or vocabulary.kind in (
        "wordlevel",
        "wordpiece",
    )


def test_a_tokenizer_that_loses_nothing_is_known_by_its_probes() -> None:
    lossless = {name for name in tokenizer_files() if vocabulary_of(name).is_lossless}
    assert lossless == {
        "gpt2",
        "line ends joined to what is before",
        "digits and punctuation apart",
        "merges across spaces",
        "dropout",
    }
