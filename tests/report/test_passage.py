"""A passage is the text itself, word by word, where memory bought the most."""

from pathlib import Path

import numpy as np
import pytest
from compared_runs import add_result, make_compared
from reported_runs import LENGTHS, read
from tokenizer_rules import REAL

from trainer.data.vocabulary.files import (
    SymbolVocabulary,
    TokenizerVocabulary,
    Vocabulary,
    WordVocabulary,
    save_vocabulary,
)
from trainer.errors import InputError
from trainer.report.memory import Bought, memory_of
from trainer.report.passage import LINE_END, N_TOKENS, passage, pieces

N = 2000
WORDS = WordVocabulary(["<eos>", "<unk>", *(f"w{i}" for i in range(2, 50))])


def bought(run: Path, gains: np.ndarray) -> Bought:
    nats = np.full(len(gains), 5.0)
    for mem_len, part in ((0, nats), (64, nats - gains)):
        hashes = {"vocabulary_hash": WORDS.hash}
        add_result(run, nats=part, settings=LENGTHS | {"mem_len": mem_len}, **hashes)
    found = memory_of(read([run])[0]).bought
    assert found is not None
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = make_compared(tmp_path / "run", result={"split": "valid"})
    save_vocabulary(WORDS, run / "vocabulary.json")
    return run


def test_the_stretch_with_the_greatest_gain_is_chosen(run: Path) -> None:
    gains = np.zeros(N)
    gains[900 : 900 + N_TOKENS] = 1.0
    gains[950] = -2.0
    found = passage(run, bought(run, gains))
    assert found.begin == 901  # the first token is at position 1
    ids = [(900 + i) % 50 for i in range(N_TOKENS)]
    text = "".join(word.text.replace(LINE_END, "") + word.after for word in found.words)
    assert text.split() == WORDS.decode(ids).split()
    assert sum(word.gain for word in found.words) == pytest.approx(N_TOKENS - 3)
    assert min(word.gain for word in found.words) == pytest.approx(-2.0)
    assert found.strong == pytest.approx(1.0)


def test_a_text_shorter_than_a_passage_is_shown_whole(run: Path) -> None:
    found = passage(run, bought(run, np.ones(100)))
    assert found.begin == 1
    assert sum(word.gain for word in found.words) == pytest.approx(100)


@pytest.mark.parametrize(
    ("vocabulary", "text"),
    [
        (WORDS, "w3 w4\nw5 w6\n\nw7"),
        (SymbolVocabulary("characters", "ab \n中é"), "ab 中é\n\nba a"),
        (SymbolVocabulary("bytes", "".join(map(chr, range(256)))), "é中 a"),
        (TokenizerVocabulary(REAL["gpt-2"] if "gpt-2" in REAL else REAL["llama-2"]), "a b"),
    ],
    ids=["words", "characters", "bytes", "bpe"],
)
def test_pieces_make_up_the_text_of_any_vocabulary(vocabulary: Vocabulary, text: str) -> None:
    coded = text.encode().decode("latin-1") if vocabulary.kind == "bytes" else text
    ids = vocabulary.encode(text if vocabulary.kind != "bytes" else coded)
    assert "".join(pieces(vocabulary, ids)) == vocabulary.decode(ids)


def test_another_vocabulary_is_refused(run: Path) -> None:
    found = bought(run, np.ones(N))
    save_vocabulary(WordVocabulary(["<eos>", "<unk>", "a"]), run / "vocabulary.json")
    with pytest.raises(InputError, match="is not the vocabulary of the evaluation"):
        passage(run, found)
