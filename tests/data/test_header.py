"""A header is believed only where every field can be true, whoever made its hash."""

import json
from pathlib import Path

import pytest
from builders import rewrite_header, write_corpus

from trainer.data.header import BLOCK_BYTES, read_header
from trainer.errors import InputError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Return 30 tokens of two documents."""
    return write_corpus(tmp_path / "corpus", vocabulary_size=9, valid=[[1, 2, 8] * 5] * 2).path


def test_every_byte_of_a_header_matters(corpus: Path) -> None:
    path = corpus / "valid.json"
    content = path.read_bytes()
    values = json.loads(content)
    for i in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[i] ^= 1
        path.write_bytes(flipped)
        try:
            same = json.loads(flipped) == values  # whitespace alone has changed
        except ValueError:
            same = False
        if not same:
            with pytest.raises(InputError, match=r"valid.json: "):
                read_header(corpus, "valid")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n_words": None}, "n_words: input should be a valid integer, got None; prepare it again"),
        ({"n_words": -5}, "n_words: input should be greater than or equal to 0, got -5"),
        ({"n_characters": True}, "n_characters: input should be a valid integer, got True"),
        ({"n_characters": 1e3}, "n_characters: input should be a valid integer, got 1000.0"),
        ({"n_characters": 1 << 80}, "n_characters: input should be less than"),
        ({"n_tokens": "30"}, "n_tokens: input should be a valid integer, got '30'"),
        ({"n_documents": 0}, "n_documents: input should be greater than or equal to 1, got 0"),
        ({"n_documents": 31}, "n_documents 31 exceeds n_tokens 30"),
        ({"n_unknown": 31}, "n_unknown 31 exceeds n_tokens 30"),
        ({"dtype": "object"}, "dtype: string should match pattern"),
        ({"block_bytes": 0}, "block_bytes: input should be greater than or equal to 1024, got 0"),
        ({"block_hashes": ["0" * 32] * 2}, "block_hashes are 2, not 1"),
        ({"block_hashes": [None]}, "block_hashes.0: input should be a valid string, got None"),
        ({"n_tokens": BLOCK_BYTES}, "block_hashes are 1, not 2"),
        ({"splits": ["train"]}, "splits are train, of which this is valid"),
        ({"splits": ["valid", "a\nerror: b\x1b"]}, r"splits are valid, a\nerror: b\x1b, of which"),
        ({"splits": ["train", "valid"], "name": "train"}, "this is the header of split train"),
        ({"made": []}, "made: input should be a valid dictionary, got []"),
        ({"vocabulary_hash": "x" * 9_000}, "xx...xx"),
        ({"of_tomorrow": 1}, "unknown key of_tomorrow"),
        (dict.fromkeys("123456", 1), "unknown key 1; unknown key 2; unknown key 3; 3 more; prep"),
    ],
)
def test_a_field_that_cannot_be_true_is_refused_in_one_line(
    corpus: Path, changes: dict[str, object], told: str
) -> None:
    rewrite_header(corpus / "valid.json", **changes)
    with pytest.raises(InputError) as refusal:
        read_header(corpus, "valid")
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1_000


def test_a_missing_field_is_named(corpus: Path) -> None:
    path = corpus / "valid.json"
    values = json.loads(path.read_text())
    del values["n_words"]
    path.write_text(json.dumps(values))
    rewrite_header(path)
    with pytest.raises(InputError, match="corrupt header: n_words is missing; prepare it again"):
        read_header(corpus, "valid")


@pytest.mark.parametrize("content", [b"", b"[" * 10_000, b"NaN", b"\xff", b'"txl-corpus"', b"null"])
def test_what_is_no_header_is_refused_in_one_line(corpus: Path, content: bytes) -> None:
    (corpus / "valid.json").write_bytes(content)
    with pytest.raises(InputError, match=r"valid\.json: .*header"):
        read_header(corpus, "valid")
