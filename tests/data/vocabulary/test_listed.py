"""A vocabulary of symbols of any kind reads the text that it writes."""

import itertools
from itertools import chain
from pathlib import Path

import pytest

from trainer.data.text.pieces import Piece
from trainer.data.vocabulary.files import ListedVocabulary, load_vocabulary, save_vocabulary
from trainer.data.vocabulary.protocol import UnknownSymbolError

NOTES = ListedVocabulary(["<end>", "C4", "E4", "G"], end_id=0)
DNA = ListedVocabulary(list("ACGT"))


@pytest.mark.parametrize("vocabulary", [NOTES, DNA])
def test_what_is_decoded_is_encoded_to_the_same_ids(vocabulary: ListedVocabulary) -> None:
    for ids in itertools.product(range(4), repeat=3):
        assert vocabulary.encode(vocabulary.decode(ids)) == [*ids]


def test_letters_need_no_blanks_between_them_and_lines_may_be_broken() -> None:
    assert DNA.decode([0, 1, 2, 3]) == "ACGT"
    assert DNA.encode("AC\nG T\n") == [0, 1, 2, 3]


@pytest.mark.parametrize("vocabulary", [NOTES, DNA])
def test_ids_do_not_depend_on_how_a_text_was_cut(vocabulary: ListedVocabulary) -> None:
    text = vocabulary.decode([1, 2, 3, 3, 1])
    end = [] if vocabulary.eos_id is None else [vocabulary.eos_id]
    for cut in range(len(text)):
        pieces = [Piece(text[:cut], False), Piece(text[cut:], True), Piece("", True)] * 2
        found = [ids.tolist() for ids in vocabulary.encode_pieces(pieces)]
        assert len(found) == len(pieces)
        assert [*chain.from_iterable(found)] == [*vocabulary.encode(text), *end] * 2


def test_an_unknown_symbol_is_named_or_becomes_unk() -> None:
    with pytest.raises(UnknownSymbolError, match="symbol 'D4' is not in the vocabulary"):
        NOTES.encode("C4 D4")
    assert ListedVocabulary(["a", "<unk>"]).encode("abca") == [0, 1, 1, 0]


def test_symbols_with_blanks_are_said_to_have_no_text() -> None:
    spaced = ListedVocabulary(["Note on", "rest"])
    with pytest.raises(UnknownSymbolError, match="no text can name 'Note on'"):
        spaced.encode("Note on")
    assert spaced.decode([1, 0]) == "rest Note on"


def test_it_is_kept_with_its_end(tmp_path: Path) -> None:
    save_vocabulary(NOTES, tmp_path / "vocabulary.json")
    again = load_vocabulary(tmp_path)
    assert (again.hash, again.eos_id, again.decode([1, 0])) == (NOTES.hash, 0, "C4 <end>")


@pytest.mark.parametrize("end_id", [-1, 4])
def test_an_end_that_is_no_id_is_refused(end_id: int) -> None:
    with pytest.raises(ValueError, match="is no id of 4"):
        ListedVocabulary(list("ACGT"), end_id=end_id)
