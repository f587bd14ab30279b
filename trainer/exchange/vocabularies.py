"""The vocabularies of other trainers, read from their files and objects.

================  =====================================================================
ours              `vocabulary.json`, or a `tokenizer.json`, or a folder of either
kimiyoung         `cache.pt`, the pickled corpus; or its vocabulary alone
nvidia            inside the checkpoint, or `cache.pt`
huggingface       `vocab.pkl` or `vocab.bin`, pickled; `vocab.txt`, a symbol per line
fairseq           `dict.txt`: a word and its count per line, after four special symbols
================  =====================================================================
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.data.vocabulary.files import (
    VOCABULARY_FILE,
    SymbolVocabulary,
    Vocabulary,
    WordVocabulary,
    load_vocabulary,
)
from trainer.data.vocabulary.protocol import EOS, UNK
from trainer.errors import InputError
from trainer.exchange.pickles import read_pickled
from trainer.exchange.stand_ins import Opaque
from trainer.outside import read_bytes, shortened

#: Files to look for beside a checkpoint.
_BESIDE = (
    VOCABULARY_FILE,
    "tokenizer.json",
    "vocab.pkl",
    "vocab.bin",
    "vocab.txt",
    "cache.pt",
    "dict.txt",
)

#: The most bytes of a list of words; 800,000 words take 10 million.
_MAX_LIST_BYTES = 64 << 20

#: The ids that fairseq's `Dictionary` begins with; its end of sentence is our end of line.
_FAIRSEQ_SPECIAL = ("<s>", "<pad>", EOS, UNK)


def find_vocabulary(given: Path | None, *, beside: Path, inside: Any, size: int) -> Vocabulary:
    """Return the vocabulary of a checkpoint: the one given, one inside it, or one beside it.

    Args:
        given: file or folder that the user names.
        beside: folder of the checkpoint.
        inside: the object in the checkpoint that holds the vocabulary, if any.
        size: the number of words of the model's embedding.

    Raises:
        InputError: there is no vocabulary, it cannot be read, or it is of another size.
    """
    if given is not None:
        vocabulary, where = read_vocabulary(given), str(given)
    elif inside is not None:
        vocabulary, where = _from_object(inside, where=str(beside)), "the one in the checkpoint"
    else:
        file = next((beside / name for name in _BESIDE if (beside / name).is_file()), None)
        if file is None:
            raise InputError(
                f"{beside} holds no vocabulary ({', '.join(_BESIDE)}): name one with --vocab, such "
                f"as a corpus prepared as the checkpoint's was, cache.pt or dict.txt"
            )
        vocabulary, where = read_vocabulary(file), str(file)
    if vocabulary.size != size:
        raise InputError(
            f"vocabulary {where} has {vocabulary.size:,} symbols, the checkpoint's embedding "
            f"{size:,}: name the right one with --vocab"
        )
    return vocabulary


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary from any of the files that the module's docstring lists.

    Raises:
        InputError: the file cannot be read, or is none of them.
    """
    if path.is_dir() or path.suffix == ".json":
        return load_vocabulary(path)
    if path.suffix == ".txt":
        return _from_lines(path)
    return _from_object(read_pickled(path), where=str(path))


def _from_lines(path: Path) -> Vocabulary:
    try:
        text = read_bytes(path, most_bytes=_MAX_LIST_BYTES).decode()
    except UnicodeError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    lines = text.replace("\r\n", "\n").split("\n")
    lines = [line for line in lines if line]
    if path.name != "dict.txt":
        return _from_symbols(lines, lowercase=False, where=str(path))
    symbols = list(_FAIRSEQ_SPECIAL)
    for number, line in enumerate(lines, start=1):
        word, _, count = line.removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not word or not count.isdigit():
            raise InputError(f"{path}:{number}: not a word and its count: {shortened(line)}")
        symbols.append(word)
    return _from_symbols(symbols, lowercase=False, where=str(path))


def _from_object(pickled: Any, *, where: str) -> Vocabulary:
    """Return the vocabulary of a pickled corpus, vocabulary or tokenizer, or of its dict."""
    values = pickled.attributes if isinstance(pickled, Opaque) else pickled
    if isinstance(values, dict) and isinstance(values.get("vocab"), Opaque):
        values = values["vocab"].attributes
    symbols = values.get("idx2sym") if isinstance(values, dict) else None
    if not isinstance(symbols, list):
        kind = pickled.path if isinstance(pickled, Opaque) else type(pickled).__name__
        raise InputError(
            f"{where}: no vocabulary of words or symbols here (found {kind}): name one with --vocab"
        )
    return _from_symbols(symbols, lowercase=bool(values.get("lower_case")), where=where)


def _from_symbols(symbols: Sequence[str], *, lowercase: bool, where: str) -> Vocabulary:
    _check(symbols, where)
    try:
        if EOS in symbols:
            return WordVocabulary(symbols, lowercase=lowercase)
        if all(symbol.isdigit() and int(symbol) < 256 for symbol in symbols):
            # Their enwik8 writes every byte as a number.
            return SymbolVocabulary("bytes", "".join(chr(int(symbol)) for symbol in symbols))
        if all(len(symbol) == 1 for symbol in symbols):
            # text8 there: a space is written as an underscore.
            return SymbolVocabulary("characters", "".join(symbols).replace("_", " "))
    except (AttributeError, ValueError) as error:
        raise InputError(f"{where}: not a vocabulary: {error}") from None
    raise InputError(
        f"{where}: not a vocabulary: neither words with {EOS}, nor bytes or characters"
    )


def _check(symbols: Sequence[Any], where: str) -> None:
    """Refuse what cannot be told apart in a text, or be written at all."""
    seen = set[str]()
    for i, symbol in enumerate(symbols):
        if not isinstance(symbol, str) or not symbol or any(map(str.isspace, symbol)):
            raise InputError(f"{where}: not a vocabulary: symbol {i} is {shortened(symbol)}")
        if symbol in seen or any("\ud800" <= letter <= "\udfff" for letter in symbol):
            raise InputError(
                f"{where}: not a vocabulary: symbol {i}, {shortened(symbol)}, is no new text"
            )
        seen.add(symbol)
