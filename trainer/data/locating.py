"""Where in the texts of a corpus a symbol stands that its vocabulary lacks."""

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from trainer.data.inputs import Inputs
from trainer.data.vocabulary import UnknownSymbolError, Vocabulary
from trainer.outside import printable


def located(error: UnknownSymbolError, inputs: Inputs, vocabulary: Vocabulary) -> str:
    """The message of `error`, with the first file and line that hold the symbol before it.

    The files are read again up to there.
    """
    find = _finder(error.symbol, is_word=vocabulary.kind == "words")
    for files in inputs.files.values():
        for file in files:
            # One file alone, undivided, so that its lines can be counted.
            alone = replace(inputs, files={"train": (file,)}, splits=("train",), divide=None)
            if place := _place(alone, find, by_line=file.format != "jsonl"):
                return f"{printable(file.name)}{place}: {error}"
    return str(error)


def _finder(symbol: str, *, is_word: bool) -> Callable[[str], int]:
    if not is_word:
        return lambda text: text.find(symbol)
    pattern = re.compile(rf"(?<!\S){re.escape(symbol)}(?!\S)", re.IGNORECASE)
    return lambda text: found.start() if (found := pattern.search(text)) else -1


def _place(inputs: Inputs, find: Callable[[str], int], *, by_line: bool) -> str:
    """`:LINE`, or which of the texts of JSON lines it is; empty if it is not there."""
    n_lines, n_texts = 0, 1
    with closing(inputs.read_only(["train"], "looking for it")) as pieces:
        for text, ends_document in pieces:
            place = find(text)
            if place >= 0:
                n_lines += text.count("\n", 0, place)
                return f":{n_lines + 1}" if by_line else f", text {n_texts:,}"
            n_lines += text.count("\n")
            n_texts += ends_document
    return ""
