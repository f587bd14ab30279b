"""A vocabulary that came with ids ready made: a list of symbols of any kind, such as notes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from trainer.data.text.pieces import Piece
from trainer.data.text.recutting import whole_words
from trainer.data.vocabulary.protocol import (
    UNK,
    Ids,
    Lost,
    UnknownSymbolError,
    VocabularyKind,
    canonical_hash,
)
from trainer.outside import printable


class ListedVocabulary:
    """Symbols of any kind; the id of a symbol is its place in the list.

    A text names the symbols. If each symbol is one character, and none is white space, the text is
    the symbols without anything between them, and white space in the text is left out. Otherwise
    white space separates the symbols.
    """

    kind: VocabularyKind = "symbols"

    def __init__(self, symbols: Sequence[str], *, end_id: int | None = None) -> None:
        """Use the symbols; `end_id` is the id at the end of each document, if there is one."""
        self.symbols = tuple(symbols)
        self.eos_id = end_id
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols)}
        if not self.symbols or len(self._ids) != len(self.symbols):
            raise ValueError("there is no symbol, or one occurs twice")
        if end_id is not None and not 0 <= end_id < len(self.symbols):
            raise ValueError(f"the end of a document, {end_id}, is no id of {len(self.symbols)}")
        self.unk_id = self._ids.get(UNK)
        self.is_spaced = any(len(s) != 1 or s.isspace() for s in self.symbols if s != UNK)

    @property
    def size(self) -> int:  # noqa: D102 - the Protocol says it
        return len(self.symbols)

    @cached_property
    def hash(self) -> str:  # noqa: D102
        return canonical_hash(self.to_json())

    def to_json(self) -> dict[str, Any]:  # noqa: D102
        return {"kind": self.kind, "symbols": list(self.symbols), "end_id": self.eos_id}

    def encode(self, text: str) -> list[int]:  # noqa: D102
        symbols = text.split()
        return [self._id_of(s) for s in (symbols if self.is_spaced else "".join(symbols))]

    def encode_pieces(self, pieces: Iterable[Piece]) -> Iterator[Ids]:
        """Yield the ids of documents; one without any symbol has no `end_id` either."""
        has_text = False
        for text, ends_document in whole_words(pieces):
            ids = self.encode(text)
            has_text = has_text or bool(ids)
            if ends_document and has_text and self.eos_id is not None:
                ids.append(self.eos_id)
            has_text = has_text and not ends_document
            yield np.asarray(ids, np.uint32)

    def lost(self, piece: Piece, ids: Ids, *, starts_document: bool) -> Lost:  # noqa: D102
        return Lost(hidden=0 if self.unk_id is None else int(np.count_nonzero(ids == self.unk_id)))

    def decode(self, ids: Sequence[int]) -> str:  # noqa: D102
        return (" " if self.is_spaced else "").join(self.symbols[i] for i in ids)

    def _id_of(self, symbol: str) -> int:
        found = self._ids.get(symbol, self.unk_id)
        if found is None:
            raise UnknownSymbolError(
                f"symbol {printable(repr(symbol), most=100)} is not in the vocabulary, which has "
                f"no {UNK}{self._why_no_text}",
                symbol=symbol,
            )
        return found

    @property
    def _why_no_text(self) -> str:
        blanks = next((s for s in self.symbols if s.split() != [s]), None)
        if blanks is None:
            return ""
        return (
            f" (white space separates the symbols of a text, so no text can name "
            f"{printable(repr(blanks), most=100)})"
        )


def symbols_of(content: Any) -> list[str]:
    """Return the symbols, by id, of parsed JSON: a list of symbols, or an object symbol → id.

    Raises:
        ValueError: the content is neither, or its ids are not those from 0 up without a gap.
    """
    if isinstance(content, list):
        if odd := [i for i, symbol in enumerate(content) if not isinstance(symbol, str)]:
            raise ValueError(f"entry {odd[0]} of the list is no text; write symbols in quotes")
        if len({*content}) < len(content):
            ((twice, _),) = Counter(content).most_common(1)
            raise ValueError(f"the symbol {printable(repr(twice), most=100)} is there twice")
        symbols = content
    elif isinstance(content, dict):
        for symbol, i in content.items():
            if type(i) is not int:
                raise ValueError(f"{printable(repr(symbol), most=100)} has no whole number as id")
        by_id = {i: symbol for symbol, i in content.items()}
        if len(by_id) < len(content):
            raise ValueError("two symbols have the same id")
        if gaps := [i for i in range(len(by_id)) if i not in by_id]:
            raise ValueError(f"no symbol has id {gaps[0]}; ids go from 0 up without a gap")
        symbols = [by_id[i] for i in range(len(by_id))]
    else:
        raise ValueError("neither a list of symbols nor an object of symbols with their ids")
    if not symbols or "" in symbols:
        raise ValueError("a symbol is empty, or there is none")
    return symbols
