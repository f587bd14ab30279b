"""What a vocabulary lacks is named with the file and line that have it, and with the way out."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared import decoded, made
from tokenizers import Tokenizer, models, pre_tokenizers

from trainer.data.vocabulary.files import (
    SymbolVocabulary,
    Vocabulary,
    WordVocabulary,
    save_vocabulary,
)
from trainer.errors import InputError

TEXT = "".join(f"the cat {i % 7} sat on mat {i}\n" for i in range(1000))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_unknown_characters_need_unk_or_bytes(tmp_path: Path, text: Path) -> None:
    (tmp_path / "valid.txt").write_text("the\nzèbra")
    options = {"train": (text,), "valid": (tmp_path / "valid.txt",), "tokenizer": "characters"}
    with pytest.raises(InputError) as error:
        made(tmp_path, **options)
    assert str(error.value) == (
        f"{tmp_path}/valid.txt:2: character 'z' (U+007A) is not in the vocabulary, which has no "
        "<unk>: make such characters <unk> with --unk, or their bytes with --byte-fallback; "
        "--tokenizer bytes and bpe read anything"
    )
    with_unk = made(tmp_path, unk=True, **options)
    assert decoded(with_unk, "valid") == "the\n\ufffd\ufffd\ufffd\ufffda"
    assert with_unk.splits["valid"].header.n_hidden == 4
    with_bytes = made(tmp_path, byte_fallback=True, overwrite=True, **options)
    assert decoded(with_bytes, "valid") == "the\nzèbra"
    assert with_bytes.splits["valid"].n_tokens == len("the\nzèbra") + 1  # è is two bytes
    assert with_bytes.vocabulary.size == with_unk.vocabulary.size - 1 + 256


def test_what_is_not_in_a_given_vocabulary_is_named_with_its_file_and_line(
    tmp_path: Path,
) -> None:
    names = {
        "characters": "character 'q' (U+0071)",
        "bytes": "byte 0x71",
        "words": "word 'q'",
    }
    without_unk: dict[str, Vocabulary] = {
        "characters": SymbolVocabulary("characters", "\n the"),
        "bytes": SymbolVocabulary("bytes", "\n the"),
        "words": WordVocabulary(["<eos>", "the"]),
    }
    (tmp_path / "texts.jsonl").write_text(
        '\n{"text": "the"}\n{"q": "q", "text": "the\\nq the"}\n{"text": "q"}\n'
    )
    (tmp_path / "text.txt").write_text("the\nthe\n" * 9000 + "the q the\nq")
    for tokenizer, vocabulary in without_unk.items():
        save_vocabulary(vocabulary, tmp_path / "vocabulary.json")
        for name, line in (("texts.jsonl", 3), ("text.txt", 18_001)):
            with pytest.raises(InputError) as error:
                made(tmp_path, train=(tmp_path / name,), vocab=tmp_path / "vocabulary.json")
            told = str(error.value)
            assert told.startswith(f"{tmp_path}/{name}:{line}: {names[tokenizer]} is not in the")
            assert told.endswith("--vocab stays as it is: mend the text, or take another one")


def test_a_tokenizer_that_has_nothing_for_what_is_unknown_is_refused_where_it_meets_that(
    tmp_path: Path, text: Path
) -> None:
    tokenizer = Tokenizer(models.WordLevel({"the": 0, "cat": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "known.txt").write_text("the cat the cat")
    vocab = tmp_path / "tokenizer.json"
    assert (
        made(tmp_path, train=(tmp_path / "known.txt",), vocab=vocab).splits["train"].n_tokens == 4
    )
    with pytest.raises(InputError, match=r"cannot encode the text \(.*UNK.*\): take one that has"):
        made(tmp_path, train=(text,), vocab=vocab, overwrite=True)


def test_an_unknown_character_of_a_table_is_named_with_its_row(tmp_path: Path, text: Path) -> None:
    rows = pa.table({"text": ["the\ncat\n", "", "the z"]})
    pq.write_table(rows, tmp_path / "valid.parquet")
    with pytest.raises(InputError, match=r"valid\.parquet:3: character 'z'"):
        made(
            tmp_path,
            train=(text,),
            valid=(tmp_path / "valid.parquet",),
            tokenizer="characters",
        )
