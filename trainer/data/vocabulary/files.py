"""Saving and loading vocabularies: a `vocabulary.json` in the corpus and in each run."""

import json
from pathlib import Path
from typing import Any

from trainer.data.vocabulary.bpe import TokenizerVocabulary
from trainer.data.vocabulary.listed import ListedVocabulary, symbols_of
from trainer.data.vocabulary.protocol import (
    Ids,
    Lost,
    MadeKind,
    UnknownSymbolError,
    Vocabulary,
    VocabularyKind,
    canonical_hash,
)
from trainer.data.vocabulary.schema import MAX_BYTES, check_values
from trainer.data.vocabulary.symbols import SymbolVocabulary
from trainer.data.vocabulary.words import WordVocabulary
from trainer.errors import InputError
from trainer.files import write_atomically
from trainer.outside import read_json

__all__ = [
    "VOCABULARY_FILE",
    "Ids",
    "ListedVocabulary",
    "Lost",
    "MadeKind",
    "SymbolVocabulary",
    "TokenizerVocabulary",
    "UnknownSymbolError",
    "Vocabulary",
    "VocabularyKind",
    "WordVocabulary",
    "canonical_hash",
    "encode_given",
    "load_listed",
    "load_vocabulary",
    "save_vocabulary",
]

VOCABULARY_FILE = "vocabulary.json"
_FORMAT, _VERSION = "txl-vocabulary", 1


def save_vocabulary(vocabulary: Vocabulary, path: Path) -> None:
    """Replace the file `path` with `vocabulary` as JSON: see `write_atomically`."""
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "hash": vocabulary.hash,
        "vocabulary": vocabulary.to_json(),
    }
    write_atomically(path, json.dumps(content, indent=0) + "\n")


def load_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary: `vocabulary.json`, a Hugging Face `tokenizer.json`, or a folder of either.

    Raises:
        InputError: the file is missing, corrupt, or from a newer version.
    """
    if path.is_dir():
        names = (VOCABULARY_FILE, "tokenizer.json")
        path = next((path / n for n in names if (path / n).is_file()), path / VOCABULARY_FILE)
    if not path.exists():
        raise InputError(f"{path}: no such vocabulary; `txl prepare` writes one")
    try:
        content = read_json(path, most_bytes=MAX_BYTES)
    except InputError as error:
        raise InputError(f"{path}: not a vocabulary: {error}") from None
    if isinstance(content, dict) and "model" in content and "format" not in content:
        return _vocabulary_from({"kind": "bpe", "tokenizer": content}, where=path)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f"{path}: not a vocabulary: its format is not {_FORMAT!r}")
    if content.get("version") != _VERSION:
        raise InputError(
            f"{path}: vocabulary version {content.get('version')!r}, this program reads {_VERSION}"
        )
    if content.get("hash") != canonical_hash(content.get("vocabulary")):
        raise InputError(f"{path}: corrupt: its hash does not match; restore or prepare it again")
    return _vocabulary_from(content["vocabulary"], where=path)


def load_listed(path: Path, *, end_id: int | None = None) -> Vocabulary:
    """Read the vocabulary of ids ready made: a list of symbols, or an object symbol → id, in JSON.

    What `load_vocabulary` reads is read too, and then `end_id` changes nothing in it.

    Raises:
        InputError: the file is missing or no vocabulary, or `end_id` is none of its ids.
    """
    if path.is_dir() or not path.exists():
        return load_vocabulary(path)
    content = read_json(path, most_bytes=MAX_BYTES)
    if isinstance(content, dict) and (
        isinstance(content.get("format"), str) or isinstance(content.get("model"), dict)
    ):
        return load_vocabulary(path)
    try:
        symbols = symbols_of(content)
    except ValueError as error:
        raise InputError(
            f"{path}: not a vocabulary: {error} (it is a list of symbols, or an object of symbols "
            "with their ids, or what `txl prepare` or Hugging Face tokenizers write)"
        ) from None
    if end_id is not None and not 0 <= end_id < len(symbols):
        raise InputError(f"the end of a document, {end_id}, is no id of {len(symbols):,} in {path}")
    return ListedVocabulary(symbols, end_id=end_id)


def encode_given(vocabulary: Vocabulary, text: str, *, what: str) -> list[int]:
    """Encode a text for a trained model; `what` names the text in the error.

    Raises:
        InputError: the vocabulary, and so the model, lacks a symbol of the text.
    """
    try:
        return vocabulary.encode(text)
    except UnknownSymbolError as error:
        raise InputError(f"{what}: {error}: leave it out, or write it otherwise") from None


def _vocabulary_from(values: dict[str, Any], *, where: Path) -> Vocabulary:
    """Return the vocabulary that was saved as JSON values."""
    check_values(values, where=str(where))
    try:
        match values["kind"]:
            case "words":
                return WordVocabulary(values["words"], lowercase=values["lowercase"])
            case "bytes" | "characters":
                return SymbolVocabulary(
                    values["kind"],
                    values["symbols"],
                    unk=values["unk"],
                    line_ends=values.get("line_ends", True),
                    byte_fallback=values.get("byte_fallback", False),
                )
            case "bpe":
                return TokenizerVocabulary(values["tokenizer"])
            case "symbols":
                return ListedVocabulary(values["symbols"], end_id=values["end_id"])
            case kind:
                raise ValueError(f"unknown kind {kind!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not a vocabulary: {error}") from None
