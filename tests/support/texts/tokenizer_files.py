"""A `tokenizer.json` of each kind that is in use, small, made here."""

import json
import random
from functools import cache
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from trainer.data.vocabulary.files import TokenizerVocabulary

WORDS = (
    *("the", "cat", "sat", "on", "a", "mat", "and", "dogs", "ran", "away", "from", "house"),
    *("river", "don't", "it's", "12", "3,141", "well-known", "...", "!?", "naïve", "café", "Über"),
    *(
        "ΣΊΣΥΦΟΣ",
        "кот",
        "смотрел",
        "我们的语言",
        "日本語です",
        "ไทย",
        "e\u0301te\u0301",
        "ﬁne",
        "Ⅳ",
    ),
    *("<unk>", "</s>", "\U0001f469\u200d\U0001f467", "xxxxxxxx"),
)
BLANKS = (" ", " ", " ", " ", "  ", "    ", "\n", "\n\n", " \n", "\n    ", "\t", "\r\n", "\u3000")


def some_text(seed: int, *, n_words: int) -> str:
    """Return words and blanks as they fall, with a run now and then that no blank interrupts."""
    pick = random.Random(seed)
    parts = []
    for _ in range(n_words):
        parts.append(pick.choice(WORDS))
        if pick.random() > 0.03:
            parts.append(pick.choice(BLANKS))
        elif pick.random() < 0.1:
            parts.append("".join(pick.choices("我们语言日本xy", k=pick.randrange(1500))))
    return "".join(parts)


LEARNT_FROM = some_text(0, n_words=4000)


@cache
def tokenizer_files() -> dict[str, dict[str, Any]]:
    """Return the content of each file by a name that says what it does."""
    made = {**_byte_level(), **_sentencepiece(), **_unigram(), **_whole_words(), **_normalized()}
    return {name: json.loads(tokenizer.to_str()) for name, tokenizer in made.items()}


@cache
def vocabulary_of(name: str) -> TokenizerVocabulary:
    """Return the vocabulary that a file makes."""
    return TokenizerVocabulary(tokenizer_files()[name])


def _trained(model: Any, trainer: Any, **parts: Any) -> Tokenizer:
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator(LEARNT_FROM.splitlines(keepends=True), trainer)
    return tokenizer


def _bpe(*, byte_level: bool = True, size: int = 700, special: tuple[str, ...] = ()) -> Any:
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    return trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=alphabet, special_tokens=[*special]
    )


def _byte_level() -> dict[str, Tokenizer]:
    byte_level = pre_tokenizers.ByteLevel
    joining = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
                "isolated",
            ),
            byte_level(add_prefix_space=False, use_regex=False),
        ]
    )
    digits = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation(),
            byte_level(add_prefix_space=False),
        ]
    )
    prefixed = _trained(
        models.BPE(),
        _bpe(special=("<s>", "</s>")),
        decoder=decoders.ByteLevel(),
        pre_tokenizer=byte_level(add_prefix_space=True),
    )
    prefixed.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    plain = {"decoder": decoders.ByteLevel()}
    return {
        "gpt2": _trained(models.BPE(), _bpe(), pre_tokenizer=byte_level(False), **plain),
        "gpt2 with a space before, in a template": prefixed,
        "line ends joined to what is before": _trained(
            models.BPE(), _bpe(), pre_tokenizer=joining, **plain
        ),
        "digits and punctuation apart": _trained(
            models.BPE(), _bpe(), pre_tokenizer=digits, **plain
        ),
        "merges across spaces": _trained(
            models.BPE(), _bpe(), pre_tokenizer=byte_level(False, use_regex=False), **plain
        ),
        "dropout": _trained(
            models.BPE(dropout=0.5), _bpe(), pre_tokenizer=byte_level(False), **plain
        ),
    }


def _sentencepiece() -> dict[str, Tokenizer]:
    """Return Llama-2's: a space before the text, spaces as ▁, no pre-tokens, bytes for the rest."""
    learnt = _trained(
        models.BPE(unk_token="<unk>"),
        _bpe(byte_level=False, special=("<unk>", "</s>")),
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="never"),
    )
    values = json.loads(learnt.to_str())["model"]
    values["vocab"] |= {f"<0x{byte:02X}>": len(values["vocab"]) + byte for byte in range(256)}
    merges = [tuple(merge) for merge in values["merges"]]
    replaced = normalizers.Replace(" ", "▁")
    decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made = {}
    for name, byte_fallback, fuse_unk in (
        ("llama-2", True, True),
        ("llama-2 without bytes", False, False),
        ("llama-2 without bytes, unknown ones fused", False, True),
    ):
        tokenizer = Tokenizer(
            models.BPE(
                values["vocab"],
                merges,
                unk_token="<unk>",
                byte_fallback=byte_fallback,
                fuse_unk=fuse_unk,
            )
        )
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced])
        tokenizer.decoder = decoder
        made[name] = tokenizer
    return made


def _unigram() -> dict[str, Tokenizer]:
    made = {}
    for scheme in ("first", "always", "never"):
        for split in (True, False):
            metaspace = {"prepend_scheme": scheme, "split": split}
            trainer = trainers.UnigramTrainer(
                vocab_size=300,
                unk_token="<unk>",
                special_tokens=["<unk>", "</s>"],
                show_progress=False,
            )
            tokenizer = _trained(
                models.Unigram(),
                trainer,
                decoder=decoders.Metaspace(**metaspace),
                pre_tokenizer=pre_tokenizers.Metaspace(**{**metaspace, "split": True}),
            )
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(**metaspace)
            made[f"unigram, space before {scheme}, {'' if split else 'not '}split"] = tokenizer
    return made


def _whole_words() -> dict[str, Tokenizer]:
    word_level = trainers.WordLevelTrainer(
        vocab_size=40, special_tokens=["[UNK]"], show_progress=False
    )
    word_piece = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]", "[SEP]"], show_progress=False
    )
    return {
        "words": _trained(
            models.WordLevel(unk_token="[UNK]"),
            word_level,
            pre_tokenizer=pre_tokenizers.Whitespace(),
        ),
        "words between spaces": _trained(
            models.WordLevel(unk_token="[UNK]"),
            word_level,
            pre_tokenizer=pre_tokenizers.WhitespaceSplit(),
        ),
        "bert": _trained(
            models.WordPiece(unk_token="[UNK]"),
            word_piece,
            decoder=decoders.WordPiece(),
            normalizer=normalizers.BertNormalizer(),
            pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        ),
    }


def _normalized() -> dict[str, Tokenizer]:
    made = {}
    for name, normalizer in (
        ("nfc", normalizers.NFC()),
        ("nfkc", normalizers.NFKC()),
        ("nfd", normalizers.NFD()),
        ("lower case", normalizers.Lowercase()),
        ("stripped", normalizers.Strip()),
        ("blanks joined", normalizers.Replace(Regex(r"\s+"), " ")),
    ):
        made[name] = _trained(
            models.BPE(),
            _bpe(),
            normalizer=normalizer,
            decoder=decoders.ByteLevel(),
            pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        )
    return made
