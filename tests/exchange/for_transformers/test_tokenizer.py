"""A vocabulary exported for transformers gives the ids, and the texts, that it gives here."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import CPU, tiny_experiment, tiny_model
from peer import ask_today
from tokenizer_files import LEARNT_FROM, some_text, tokenizer_files
from tokenizers import Tokenizer

from trainer.data.text.pieces import Piece
from trainer.data.vocabulary.files import (
    SymbolVocabulary,
    TokenizerVocabulary,
    Vocabulary,
    WordVocabulary,
)
from trainer.exchange.for_transformers.tokenizer import PAD, tokenizer_of
from trainer.exchange.for_transformers.writing import write_for_transformers
from trainer.inference.trained import TrainedModel


def pieces(text: str) -> Iterator[Piece]:
    yield Piece(text, ends_document=True)


def characters(text: str, **how: bool) -> SymbolVocabulary:
    return SymbolVocabulary.build("characters", pieces(text), **how)


def all_bytes(text: str, **how: bool) -> SymbolVocabulary:
    return SymbolVocabulary.build("bytes", pieces(text.encode().decode("latin-1")), **how)


SOME = LEARNT_FROM[:400]
MADE: dict[str, Callable[[], Vocabulary]] = {
    "words": lambda: WordVocabulary.build(pieces(SOME)),
    "words with a pad": lambda: WordVocabulary(["<s>", PAD, "<eos>", "<unk>", "the", "cat"]),
    "lower case": lambda: WordVocabulary.build(pieces("über the cat café"), lowercase=True),
    "characters": lambda: characters(SOME, unk=True),
    "characters, no line ends": lambda: characters(SOME, unk=True, line_ends=False),
    "characters, then bytes": lambda: characters(SOME, byte_fallback=True),
    "bytes": lambda: all_bytes(SOME, unk=True),
    "all bytes": lambda: all_bytes(SOME, all_bytes=True),
    "all bytes, no line ends": lambda: all_bytes(SOME, all_bytes=True, line_ends=False),
    "bpe": lambda: TokenizerVocabulary.build(pieces(LEARNT_FROM), size=300),
}
OF_FILES = sorted(tokenizer_files())
NAMES = [*MADE, *OF_FILES]

TEXTS = (
    *("", "\n", " \n\n the  cat\tsat\r\non\ra mat ", "a\x1cb\x1fc\x85d\u2028e\u00a0f\u3000g\x0ch"),
    *("the<eos>cat <eos> <unk> <pad> x<pad>y <|endoftext|> </s>", "Über CAFÉ İ ŉ", "\x00\ufffd😀"),
    *(some_text(seed, n_words=60) for seed in (1, 2, 3)),
    "".join(chr(random.Random(4).randrange(0x20, 0xD800)) for _ in range(3)),
)


def vocabulary_of(name: str) -> Vocabulary:
    return MADE[name]() if name in MADE else TokenizerVocabulary(tokenizer_files()[name])


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_texts_are_the_same(name: str) -> None:
    vocabulary = vocabulary_of(name)
    exported = tokenizer_of(vocabulary)
    there = Tokenizer.from_str(json.dumps(exported.content))
    there.encode_special_tokens = True
    for text in TEXTS:
        if name == "lower case" and "Σ" in text:
            continue
        ids = there.encode(text).ids
        assert ids == vocabulary.encode(text), text
        assert there.decode(ids, skip_special_tokens=False) == vocabulary.decode(ids), text


@pytest.mark.parametrize("name", NAMES)
def test_the_pad_is_no_other_token(name: str) -> None:
    vocabulary = vocabulary_of(name)
    exported = tokenizer_of(vocabulary)
    if name == "words with a pad":
        assert exported.pad_id == 1
    else:
        assert exported.pad_id == vocabulary.size


def test_a_character_that_is_not_there_is_refused_there_too() -> None:
    there = Tokenizer.from_str(json.dumps(tokenizer_of(characters("abc")).content))
    with pytest.raises(Exception, match="UNK"):
        there.encode("abd")


class TestInTransformers:
    """Tests in an environment of transformers, whose tokenizer reads what is written."""

    def test_its_tokenizer_gives_the_same_ids(self, tmp_path: Path) -> None:
        texts = [text for text in TEXTS if "Σ" not in text]
        tasks = [
            {"does": "tokenize", "folder": str(written(name, tmp_path)), "texts": texts}
            for name in MADE
        ]
        answers = ask_today(tmp_path / "asked", tasks)
        for name, answer in zip(MADE, answers, strict=True):
            vocabulary = vocabulary_of(name)
            assert answer["ids"] == [vocabulary.encode(text) for text in texts], name
            assert answer["texts"] == [vocabulary.decode(ids) for ids in answer["ids"]], name


def written(name: str, folder: Path) -> Path:
    """Return the export of a small model with this vocabulary."""
    vocabulary, out = vocabulary_of(name), folder / name.replace(" ", "-").replace(",", "")
    model = tiny_model(vocabulary.size).float()
    trained = TrainedModel(
        module=model,
        experiment=tiny_experiment(model=model.config.model_dump()),
        vocabulary=vocabulary,
        path=out,
        saved={},
        weights_hash={},
        precision="fp32",
        device=CPU,
    )
    out.mkdir()
    weights = {parameter: p.detach() for parameter, p in model.named_parameters()}
    write_for_transformers(out, trained, weights)
    return out
