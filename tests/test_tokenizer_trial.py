"""A `tokenizer.json` that hangs, grows or panics is refused, and real ones' rules are not."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.data.vocabulary.files import load_vocabulary
from trainer.data.vocabulary.trial import try_tokenizer
from trainer.errors import InputError


def tokenizer(**parts: Any) -> dict[str, Any]:
    """A small tokenizer with parts of its own."""
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "vocab": {"a": 0, "b": 1, "ab": 2, " ": 3}, "merges": [["a", "b"]],
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": model, **parts,
    }  # fmt: skip


def split(pattern: str) -> dict[str, Any]:
    """A pre-tokenizer that cuts by a pattern."""
    behavior = {"behavior": "Isolated", "invert": False}
    return {"type": "Split", "pattern": {"Regex": pattern}, **behavior}


def replace(text: str, by: str) -> dict[str, Any]:
    """A normalizer or decoder that writes one text for another."""
    return {"type": "Replace", "pattern": {"String": text}, "content": by}


def sequence(*parts: dict[str, Any], name: str = "normalizers") -> dict[str, Any]:
    """Several after another."""
    return {"type": "Sequence", name: list(parts)}


GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: Rules of GPT-4's and Llama 3's, XLM-R's, Llama 2's and T5's tokenizers.
REAL = {
    "gpt-4": tokenizer(pre_tokenizer=sequence(split(GPT4), name="pretokenizers")),
    "xlm-r": tokenizer(
        normalizer=sequence(
            {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
        )
    ),
    "llama-2": tokenizer(
        normalizer=sequence({"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        decoder=sequence(
            replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}, name="decoders"
        ),
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_the_rules_of_real_tokenizers_are_taken(name: str) -> None:
    try_tokenizer(REAL[name])


BOMBS = {
    "a pattern in a pattern": tokenizer(pre_tokenizer=split("(a+)+$")),
    "a pattern of spaces": tokenizer(pre_tokenizer=split(r"(\s|\s\s)*$")),
    "a pattern that is none": tokenizer(pre_tokenizer=split("(")),
    "a text that doubles forty times": tokenizer(normalizer=sequence(*[replace("a", "aa")] * 40)),
    "a text that grows a millionfold": tokenizer(normalizer=replace("a", "b" * 1_000_000)),
    "a decoder that grows": tokenizer(
        decoder=sequence(*[replace("a", "aaaa")] * 30, name="decoders")
    ),
    "a broken table": tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "a part of no type": tokenizer(normalizer={"type": "Grow"}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_and_says_nothing_itself(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(BOMBS[name]))
    with pytest.raises(InputError, match=r"tokenizer\.json: not a vocabulary") as refused:
        load_vocabulary(file)
    assert str(refused.value).isprintable()
    assert capfd.readouterr() == ("", "")
