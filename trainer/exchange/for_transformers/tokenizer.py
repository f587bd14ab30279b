"""A vocabulary as the `tokenizer.json` of Hugging Face `tokenizers`, which gives the same ids.

A pad is added beyond the vocabulary: transformers wants one for rows of different lengths. Of words
in lower case one thing differs: a capital sigma at the end of a Greek word.
"""

import json
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from trainer.data.vocabulary.files import (
    SymbolVocabulary,
    TokenizerVocabulary,
    Vocabulary,
    WordVocabulary,
)
from trainer.data.vocabulary.protocol import EOS, UNK

PAD = "<pad>"

#: White space to Python, and not to Rust.
_SEPARATORS = "[\x1c-\x1f]"


@dataclass(frozen=True, kw_only=True)
class ExportedTokenizer:
    """The content of a `tokenizer.json`, and its special tokens."""

    content: dict[str, Any]
    end: str | None
    """The token that ends a document, where it is nothing that a text may hold."""
    pad_id: int | None
    """The id of `PAD`; None where there is no room for one."""


def tokenizer_of(vocabulary: Vocabulary) -> ExportedTokenizer:
    """Return the tokenizer of a vocabulary."""
    end = None
    if isinstance(vocabulary, WordVocabulary):
        tokenizer = _of_words(vocabulary)
    elif isinstance(vocabulary, SymbolVocabulary):
        tokenizer = (
            _of_bytes(vocabulary) if vocabulary.kind == "bytes" else _of_characters(vocabulary)
        )
    else:
        assert isinstance(vocabulary, TokenizerVocabulary)
        tokenizer = Tokenizer.from_str(json.dumps(vocabulary.rules))
        end = None if vocabulary.eos_id is None else tokenizer.id_to_token(vocabulary.eos_id)
    return _with_pad(tokenizer, vocabulary.size, end)


def _with_pad(tokenizer: Tokenizer, size: int, end: str | None) -> ExportedTokenizer:
    content = tokenizer.to_str()
    pad_id = tokenizer.token_to_id(PAD)
    if pad_id is None:
        tokenizer.add_special_tokens([PAD])
        if tokenizer.token_to_id(PAD) == size:  # ids with gaps have no such place
            content, pad_id = tokenizer.to_str(), size
    return ExportedTokenizer(content=json.loads(content), end=end, pad_id=pad_id)


def _of_words(vocabulary: WordVocabulary) -> Tokenizer:
    """Return a tokenizer that cuts a text into words and `<eos>` as the vocabulary does."""
    ids = {word: i for i, word in enumerate(vocabulary.words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    lower = [normalizers.Lowercase()] if vocabulary.lowercase else []
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("\r\n", "\n"),
            normalizers.Replace("\r", "\n"),
            normalizers.Replace(Regex(_SEPARATORS), " "),
            *lower,
            normalizers.Replace("\n", f" {EOS} "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex(f"^{EOS}$"), "\n"),
            decoders.WordPiece(prefix=" ", cleanup=False),  # no word begins with a space
            decoders.Fuse(),
            decoders.Replace(" \n", "\n"),
            decoders.Replace("\n ", "\n"),
        ]
    )
    return tokenizer


def _of_characters(vocabulary: SymbolVocabulary) -> Tokenizer:
    ids = {symbol: i for i, symbol in enumerate(vocabulary.symbols)}
    if vocabulary.byte_fallback:
        of_bytes = {f"<0x{byte:02X}>": len(ids) + byte for byte in range(256)}
        tokenizer = Tokenizer(models.BPE(ids | of_bytes, [], byte_fallback=True))
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    else:
        tokenizer = Tokenizer(models.WordLevel(_with_unknown(ids, vocabulary), unk_token=UNK))
        unknown = decoders.Replace(UNK, "\N{REPLACEMENT CHARACTER}")
        tokenizer.decoder = decoders.Sequence([unknown, decoders.Fuse()])
    tokenizer.pre_tokenizer = _each_character()
    _drop_line_ends(tokenizer, vocabulary)
    return tokenizer


def _of_bytes(vocabulary: SymbolVocabulary) -> Tokenizer:
    """Return a tokenizer of bytes, which `tokenizers` writes as characters that can be printed."""
    printed = _printed_bytes()
    ids = {printed[ord(symbol)]: i for i, symbol in enumerate(vocabulary.symbols)}
    tokenizer = Tokenizer(models.WordLevel(_with_unknown(ids, vocabulary), unk_token=UNK))
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([as_bytes, _each_character()])
    unknown = "".join(printed[byte] for byte in "\N{REPLACEMENT CHARACTER}".encode())
    replaced = decoders.Replace(UNK, unknown)
    tokenizer.decoder = decoders.Sequence([replaced, decoders.Fuse(), decoders.ByteLevel()])
    _drop_line_ends(tokenizer, vocabulary)
    return tokenizer


def _each_character() -> pre_tokenizers.Split:
    return pre_tokenizers.Split(Regex(r"(?m)."), "isolated")  # in Ruby's syntax also a line end


def _drop_line_ends(tokenizer: Tokenizer, vocabulary: SymbolVocabulary) -> None:
    if not vocabulary.line_ends:
        tokenizer.normalizer = normalizers.Replace("\n", "")


def _with_unknown(ids: dict[str, int], vocabulary: SymbolVocabulary) -> dict[str, int]:
    return ids if vocabulary.unk_id is None else {**ids, UNK: vocabulary.unk_id}


def _printed_bytes() -> list[str]:
    """Return the character that stands for each byte: itself, or one of the first after 255."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]
