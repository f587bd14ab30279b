"""Words are ranked by count, and a line is its words and `<eos>`."""

import pytest
from small_texts import TEXT, document

from trainer.data.text.pieces import Piece
from trainer.data.vocabulary.words import WordVocabulary
from trainer.errors import InputError


def test_words_are_ranked_by_count_then_first_appearance_after_eos() -> None:
    assert WordVocabulary.build(document(TEXT)).words == (
        "<eos>",
        "the",
        "sat",
        "cat",
        "dog",
        ",",
        "<unk>",
    )


def test_a_line_is_its_words_and_eos_and_an_empty_line_is_eos() -> None:
    vocabulary = WordVocabulary.build(document(TEXT))
    assert vocabulary.encode(TEXT) == [1, 3, 2, 0, 0, 1, 4, 5, 1, 6, 2, 0]
    assert vocabulary.encode("the cat") == [1, 3]
    assert vocabulary.decode(vocabulary.encode(TEXT)) == "the cat sat\n\nthe dog , the <unk> sat\n"


def test_only_a_document_gets_an_eos_that_its_last_line_lacks() -> None:
    vocabulary = WordVocabulary.build(document(TEXT))
    pieces = [Piece("the cat", True), Piece("sat\n", True), Piece("", True)]
    assert [ids.tolist() for ids in vocabulary.encode_pieces(pieces)] == [[1, 3, 0], [2, 0], []]


def test_unk_is_id_1_unless_the_text_ranks_it() -> None:
    assert WordVocabulary.build(document("a a b\n")).words == ("<eos>", "<unk>", "a", "b")
    assert WordVocabulary.build(document("a a <unk>\n")).words == ("<eos>", "a", "<unk>")
    rare = WordVocabulary.build(document("a a b b <unk>\n"), min_count=2)
    assert rare.words == ("<eos>", "<unk>", "a", "b")


@pytest.mark.parametrize("max_size", range(2, 9))
def test_max_size_keeps_the_commonest_words_and_always_unk(max_size: int) -> None:
    words = WordVocabulary.build(document(TEXT), max_size=max_size).words
    assert len(words) == min(max_size, 7)
    assert {"<eos>", "<unk>"} <= set(words)
    kept = [word for word in words if not word.startswith("<")]
    assert kept == ["the", "sat", "cat", "dog", ","][: len(kept)]


def test_min_count_and_lowercase_make_one_word_of_many() -> None:
    vocabulary = WordVocabulary.build(document("The the cat\n"), min_count=2, lowercase=True)
    assert vocabulary.words == ("<eos>", "<unk>", "the")
    assert vocabulary.encode("THE dog") == [2, 1]


def test_an_unknown_word_is_refused_where_there_is_no_unk() -> None:
    with pytest.raises(InputError, match="word 'dog' is not in the vocabulary"):
        WordVocabulary(["<eos>", "cat"]).encode("cat dog")
