"""Bytes and characters are ranked by count; what train lacks is an error, `<unk>` or bytes."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_texts import document

from trainer.data.vocabulary.files import load_vocabulary, save_vocabulary
from trainer.data.vocabulary.protocol import UnknownSymbolError
from trainer.data.vocabulary.symbols import SymbolVocabulary


def test_symbols_are_those_of_the_text_by_count() -> None:
    vocabulary = SymbolVocabulary.build("characters", document("abbcccé"))
    assert (vocabulary.symbols, vocabulary.size) == ("cbaé", 4)
    as_bytes = SymbolVocabulary.build("bytes", document("é é".encode().decode("latin-1")))
    assert as_bytes.size == 3
    assert as_bytes.decode(as_bytes.encode("é é")) == "é é"


@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_a_symbol_that_train_lacks_is_an_error_or_unk_as_asked(kind: str) -> None:
    assert kind in ("bytes", "characters")
    strict = SymbolVocabulary.build(kind, document("ab"))  # type: ignore[arg-type]
    for unseen in "zA\x00":
        with pytest.raises(UnknownSymbolError, match="is not in the vocabulary") as error:
            strict.encode(f"a{unseen}b")
        assert error.value.symbol == unseen
        assert f"{ord(unseen):02x}" in str(error.value).lower()
    lenient = SymbolVocabulary.build(kind, document("ab"), unk=True)  # type: ignore[arg-type]
    assert lenient.size == 3
    assert lenient.encode("azbA\x00") == [0, 2, 1, 2, 2]
    assert lenient.decode([0, 2, 1]) == "a\ufffdb"


def test_characters_become_bytes_where_train_has_none(tmp_path: Path) -> None:
    vocabulary = SymbolVocabulary.build("characters", document("abé"), byte_fallback=True)
    assert vocabulary.size == 3 + 256
    assert vocabulary.encode("bé日") == [1, 2, *(3 + byte for byte in "日".encode())]
    assert vocabulary.decode([3 + 0xE6, 0]) == "\ufffda"
    save_vocabulary(vocabulary, tmp_path / "vocabulary.json")
    loaded = load_vocabulary(tmp_path)
    assert (loaded.hash, loaded.size) == (vocabulary.hash, vocabulary.size)
    assert loaded.encode("日") == vocabulary.encode("日")


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200, deadline=None)
def test_characters_with_bytes_give_any_text_back(text: str) -> None:
    vocabulary = SymbolVocabulary.build("characters", document("abc \n"), byte_fallback=True)
    assert vocabulary.decode(vocabulary.encode(text)) == text
