"""A `tokenizer.json` that hangs, grows or panics is refused, and real ones' rules are not."""

import json
from pathlib import Path

import pytest
from tokenizer_rules import REAL, replace, sequence, split, tokenizer

from trainer.data.vocabulary.files import load_vocabulary
from trainer.data.vocabulary.trial import try_tokenizer
from trainer.errors import InputError


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
