"""Vocabularies of all kinds: texts that come back, and files that are checked."""

import json
import random
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_texts import TEXT, document
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from trainer.data.text.finding import text_file
from trainer.data.text.pieces import read_pieces
from trainer.data.text.source import Reading
from trainer.data.vocabulary.files import (
    SymbolVocabulary,
    TokenizerVocabulary,
    Vocabulary,
    WordVocabulary,
    canonical_hash,
    encode_given,
    load_vocabulary,
    save_vocabulary,
)
from trainer.errors import InputError


def vocabularies(text: str) -> list[Vocabulary]:
    utf8_as_latin1 = text.encode().decode("latin-1")
    return [
        WordVocabulary.build(document(text)),
        SymbolVocabulary.build("bytes", document(utf8_as_latin1)),
        SymbolVocabulary.build("characters", document(text)),
        TokenizerVocabulary.build(iter(document(text)), size=300),
    ]


def test_a_vocabulary_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path, vocabulary = tmp_path / "vocabulary.json", WordVocabulary(["<eos>", "a"])
    save_vocabulary(vocabulary, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            save_vocabulary(WordVocabulary(["<eos>", "b"]), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_vocabulary(path).hash == vocabulary.hash
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_for_a_model_says_what_it_may_not_hold() -> None:
    vocabulary = SymbolVocabulary.build("characters", document("ab"))
    assert encode_given(vocabulary, "ba", what="the prompt") == [1, 0]
    with pytest.raises(InputError) as error:
        encode_given(vocabulary, "abc", what="the prompt")
    assert str(error.value) == (
        "the prompt: character 'c' (U+0063) is not in the vocabulary, which has no <unk>: leave "
        "it out, or write it otherwise"
    )


BPE = TokenizerVocabulary.build(iter(document("the cat sat on the mat\n" * 9)), size=270)


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200, deadline=None)
def test_bpe_gives_any_text_back(text: str) -> None:
    assert BPE.decode(BPE.encode(text)) == text


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@settings(max_examples=100, deadline=None)
def test_bytes_and_characters_give_the_text_they_were_made_of_back(text: str) -> None:
    for vocabulary in vocabularies(text)[1:3]:
        assert vocabulary.decode(vocabulary.encode(text)) == text


def test_the_documents_end_written_in_a_text_is_text() -> None:
    text = "a <|endoftext|> b"
    assert BPE.eos_id not in BPE.encode(text)
    assert BPE.decode(BPE.encode(text)) == text
    [ids] = BPE.encode_pieces(document(text))
    assert ids.tolist() == [*BPE.encode(text), BPE.eos_id]


def test_bpe_is_learnt_the_same_way_twice() -> None:
    text = "".join(random.Random(0).choices("abcdef \n", k=20_000))
    first, second = (TokenizerVocabulary.build(iter(document(text)), size=600) for _ in range(2))
    assert first.hash == second.hash
    assert first.size == 600


def bpe_joining_line_ends(text: str) -> TokenizerVocabulary:
    """Return BPE with the pre-tokens of newer models, where line ends join what is before them."""
    pattern = r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=600, show_progress=False))
    return TokenizerVocabulary(json.loads(tokenizer.to_str()))


def test_ids_do_not_depend_on_how_the_text_was_cut_for_streaming(tmp_path: Path) -> None:
    pick = random.Random(1)
    words = ["the", "cat", "é", "naïve", "...", "x" * 50, "12", "'s", "\u3000", "日本語", "\x85"]
    words += ["..."] * len(words)
    spaces = [" ", "  ", "\n", " \n ", "\n\n\n", "\t", "\r\n"]
    text = "".join(pick.choice(words) + pick.choice(spaces) for _ in range(60_000)) + "end"
    (tmp_path / "text.txt").write_bytes(text.encode())
    for vocabulary in [*vocabularies(text), bpe_joining_line_ends(text)]:
        pieces = list(
            read_pieces(
                [text_file(tmp_path / "text.txt")],
                Reading(as_bytes=vocabulary.kind == "bytes"),
            )
        )
        assert len(pieces) > 3
        streamed = [i for ids in vocabulary.encode_pieces(pieces) for i in ids.tolist()]
        end = [] if vocabulary.eos_id is None else [vocabulary.eos_id]
        assert streamed == vocabulary.encode(text) + end, vocabulary.kind


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"), "wordlevel"),
        (models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"), "wordpiece"),
        (models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0), "unigram"),
        (models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>"), "bpe"),
    ],
)
def test_a_tokenizer_file_is_called_what_it_is(tmp_path: Path, model: Any, kind: str) -> None:
    Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    vocabulary = load_vocabulary(tmp_path)
    assert (vocabulary.kind, vocabulary.unk_id) == (kind, 0)
    assert vocabulary.encode("aa" if kind == "unigram" else "a")[-1] == 1
    save_vocabulary(vocabulary, tmp_path / "vocabulary.json")  # of which versions before knew bpe
    assert json.loads((tmp_path / "vocabulary.json").read_text())["vocabulary"]["kind"] == "bpe"
    assert load_vocabulary(tmp_path / "vocabulary.json").kind == kind


def test_every_vocabulary_survives_the_disk(tmp_path: Path) -> None:
    for vocabulary in vocabularies(TEXT + "é日"):
        save_vocabulary(vocabulary, tmp_path / "vocabulary.json")
        loaded = load_vocabulary(tmp_path)
        assert loaded.hash == vocabulary.hash
        assert (loaded.kind, loaded.size) == (vocabulary.kind, vocabulary.size)
        assert (loaded.eos_id, loaded.unk_id) == (vocabulary.eos_id, vocabulary.unk_id)
        assert loaded.encode(TEXT) == vocabulary.encode(TEXT)


def test_vocabularies_that_differ_have_different_hashes() -> None:
    hashes = [v.hash for text in ("the cat", "the dog") for v in vocabularies(text)]
    assert max(Counter(hashes).values()) == 1


def test_a_tokenizer_json_loads_as_bpe_without_its_truncation(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "</s>": 9}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        vocabulary = load_vocabulary(path)
        assert (vocabulary.kind, vocabulary.size, vocabulary.eos_id) == ("bpe", 10, 9)
        assert vocabulary.encode("abba") == [2, 1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a vocabulary: "),
        (b"\xff\xfe", "not a vocabulary: "),
        (b"[]", "its format is not"),
        (b'{"format": "other"}', "its format is not"),
        (b'{"format": "txl-vocabulary", "version": 2}', "version 2, this program reads 1"),
        (b'{"model": {"type": "BPE"}}', "tokenizers cannot read it"),
    ],
)
def test_what_is_no_vocabulary_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_vocabulary(path)
    assert str(path) in str(error.value)


def test_a_missing_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such vocabulary"):
        load_vocabulary(tmp_path / "vocabulary.json")


def test_a_changed_word_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    save_vocabulary(WordVocabulary.build(document(TEXT)), path)
    path.write_text(path.read_text().replace('"dog"', '"fox"'))
    with pytest.raises(InputError, match="corrupt: its hash does not match"):
        load_vocabulary(path)


@pytest.mark.parametrize("words", [["a"], ["<eos>", "a", "a"], None, [["x"]]])
def test_a_sound_file_with_an_unsound_vocabulary_is_refused(tmp_path: Path, words: object) -> None:
    path = tmp_path / "vocabulary.json"
    save_vocabulary(WordVocabulary.build(document(TEXT)), path)
    content = json.loads(path.read_text())
    content["vocabulary"]["words"] = words
    content["hash"] = canonical_hash(content["vocabulary"])
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="not a vocabulary"):
        load_vocabulary(path)
