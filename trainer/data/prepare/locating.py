"""Finding the file and line of a symbol that a vocabulary lacks."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from trainer.data.prepare.inputs import Inputs
from trainer.data.text.source import TextFile, open_files
from trainer.data.text.unpacking import reading_errors, unpacked
from trainer.data.vocabulary.files import ListedVocabulary, UnknownSymbolError, Vocabulary
from trainer.outside import printable


def located(error: UnknownSymbolError, inputs: Inputs, vocabulary: Vocabulary) -> str:
    """Return the message of `error`, after the first file and line, or row, that hold the symbol.

    The files are read again up to that line.
    """
    find = _finder(error.symbol, vocabulary)
    for files in inputs.files.values():
        for file in files:
            if line := _way(file)(file, inputs, find):
                return f"{printable(file.name)}:{line}: {error}"
    return str(error)


def _way(file: TextFile) -> Callable[[TextFile, Inputs, Callable[[str], int]], int | None]:
    match file.format:
        case "jsonl":
            return _line_of_json
        case "text" | "raw":
            return _line_of_text
        case _:
            return _row_of_table


def _finder(symbol: str, vocabulary: Vocabulary) -> Callable[[str], int]:
    """Return a function that finds the symbol's place in a text; -1 means nowhere."""
    is_spaced = isinstance(vocabulary, ListedVocabulary) and vocabulary.is_spaced
    if vocabulary.kind != "words" and not is_spaced:
        return lambda text: text.find(symbol)
    pattern = re.compile(rf"(?<!\S){re.escape(symbol)}(?!\S)", re.IGNORECASE)
    return lambda text: found.start() if (found := pattern.search(text)) else -1


def _line_of_text(file: TextFile, inputs: Inputs, find: Callable[[str], int]) -> int | None:
    alone = replace(inputs, files={"train": (file,)}, splits=("train",), divide=None)
    n_lines = 0
    with closing(alone.read_only(["train"], "looking for it")) as pieces:
        for text, _ in pieces:
            if (place := find(text)) >= 0:
                return n_lines + text.count("\n", 0, place) + 1
            n_lines += text.count("\n")
    return None


def _row_of_table(file: TextFile, inputs: Inputs, find: Callable[[str], int]) -> int | None:
    """Return the number of the document; rows that were left out are not counted."""
    alone = replace(inputs, files={"train": (file,)}, splits=("train",), divide=None)
    number = 1
    with closing(alone.read_only(["train"], "looking for it")) as pieces:
        for text, ends_document in pieces:
            if find(text) >= 0:
                return number
            number += ends_document
    return None


def _line_of_json(file: TextFile, inputs: Inputs, find: Callable[[str], int]) -> int | None:
    for _, raw in open_files([file]):
        with reading_errors(file.name):
            for number, line in enumerate(unpacked(raw, file.packings), start=1):
                if find(_text_of(line, inputs)) >= 0:
                    return number
    return None


def _text_of(line: bytes, inputs: Inputs) -> str:
    """Return the text of a JSON line; an empty one if there is none, which is reported before."""
    try:
        text = json.loads(line.decode("utf-8-sig"))[inputs.reading.text_field].encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return str(text, "latin-1" if inputs.reading.as_bytes else "utf-8")
