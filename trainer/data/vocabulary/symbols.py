"""Vocabularies of bytes, by enwik8's rule, and of characters, by text8's."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trainer.data.text.pieces import Piece
from trainer.data.vocabulary.protocol import UNK, Ids, Lost, UnknownSymbolError, canonical_hash

N_BYTES = 256


class SymbolVocabulary:
    """Bytes or characters of a text, ordered by count, without `<eos>`.

    A byte is stored as the character of the same number, so both kinds share all code. Without
    `line_ends` no symbol stands for a line end: line ends vanish from every text, as in published
    results on enwik8. With `byte_fallback` a character that is no symbol becomes the bytes of its
    UTF-8, whose 256 ids follow those of the symbols.
    """

    eos_id: int | None = None

    def __init__(
        self,
        kind: Literal["bytes", "characters"],
        symbols: str,
        *,
        unk: bool = False,
        line_ends: bool = True,
        byte_fallback: bool = False,
    ) -> None:
        if byte_fallback and (unk or kind == "bytes"):
            raise ValueError("byte_fallback is for characters, without unk")
        self.kind = kind
        self.line_ends = line_ends
        self.byte_fallback = byte_fallback
        self.symbols = symbols
        self.unk_id = len(symbols) if unk else None
        self.size = len(symbols) + (N_BYTES if byte_fallback else unk)
        codes = _codes(symbols)
        self._table = np.full(int(codes.max(initial=0)) + 2, self.size, np.uint32)
        self._table[codes] = np.arange(len(symbols), dtype=np.uint32)
        if unk:
            self._table[self._table == self.size] = len(symbols)

    @classmethod
    def build(
        cls,
        kind: Literal["bytes", "characters"],
        pieces: Iterable[Piece],
        *,
        unk: bool = False,
        line_ends: bool = True,
        byte_fallback: bool = False,
        all_bytes: bool = False,
    ) -> "SymbolVocabulary":
        """Make a vocabulary of symbols by descending count, ties by first appearance.

        The symbols are followed, if asked for, by all bytes that did not appear, in order; or by
        `<unk>`; or by the bytes that other characters become.
        """
        counts = np.zeros(0, np.int64)
        appeared: list[int] = []
        for piece in pieces:
            n_of_code = np.bincount(_codes(piece.text))
            if len(n_of_code) > len(counts):
                counts = np.pad(counts, (0, len(n_of_code) - len(counts)))
            if new := {*np.flatnonzero((n_of_code > 0) & (counts[: len(n_of_code)] == 0)).tolist()}:
                appeared += [code for code in map(ord, dict.fromkeys(piece.text)) if code in new]
            counts[: len(n_of_code)] += n_of_code
        ranked = sorted(appeared, key=lambda code: -int(counts[code]))
        if all_bytes:
            ranked += sorted({*range(N_BYTES)} - {*ranked})
        symbols = "".join(map(chr, ranked))
        return cls(
            kind,
            symbols if line_ends else symbols.replace("\n", ""),
            unk=unk,
            line_ends=line_ends,
            byte_fallback=byte_fallback,
        )

    @cached_property
    def hash(self) -> str:  # noqa: D102
        return canonical_hash(self.to_json())

    def to_json(self) -> dict[str, Any]:  # noqa: D102
        values = {"kind": self.kind, "symbols": self.symbols, "unk": self.unk_id is not None}
        # Later fields are written only if they are not the default, so that old hashes stay.
        values |= {} if self.line_ends else {"line_ends": False}
        return values | ({"byte_fallback": True} if self.byte_fallback else {})

    def encode(self, text: str) -> list[int]:  # noqa: D102
        symbols = text.encode().decode("latin-1") if self._is_bytes else text
        ids: list[int] = self._encode(symbols).tolist()
        return ids

    def encode_pieces(self, pieces: Iterable[Piece]) -> Iterator[Ids]:  # noqa: D102
        return (self._encode(piece.text) for piece in pieces)

    def lost(self, piece: Piece, ids: Ids, *, starts_document: bool) -> Lost:  # noqa: D102
        return Lost(hidden=0 if self.unk_id is None else int(np.count_nonzero(ids == self.unk_id)))

    def decode(self, ids: Sequence[int]) -> str:  # noqa: D102
        if self.byte_fallback:
            return self._decode_with_bytes(ids)
        unknown = "\ufffd".encode().decode("latin-1") if self._is_bytes else "\ufffd"
        text = "".join(unknown if i == self.unk_id else self.symbols[i] for i in ids)
        return text.encode("latin-1").decode("utf-8", "replace") if self._is_bytes else text

    @property
    def _is_bytes(self) -> bool:
        return self.kind == "bytes"

    def _encode(self, text: str) -> Ids:
        codes = _codes(text if self.line_ends else text.replace("\n", ""))
        ids = self._table[np.minimum(codes, len(self._table) - 1)]
        if self.unk_id is None and ids.max(initial=0) >= self.size:
            unknown = ids >= self.size
            if self.byte_fallback:
                return self._with_bytes(codes, ids, unknown)
            symbol = chr(int(codes[unknown][0]))
            raise UnknownSymbolError(
                f"{self._named(symbol)} is not in the vocabulary, which has no {UNK}",
                symbol=symbol,
            )
        return ids

    def _named(self, symbol: str) -> str:
        if self._is_bytes:
            return f"byte 0x{ord(symbol):02x}"
        return f"character {symbol!r} (U+{ord(symbol):04X})"

    def _with_bytes(self, codes: Ids, ids: Ids, unknown: npt.NDArray[np.bool_]) -> Ids:
        """Return the ids, with each unknown character replaced by the ids of its UTF-8."""
        places = np.flatnonzero(unknown)
        utf8 = [chr(code).encode() for code in codes[places].tolist()]
        lengths = np.ones(len(ids), np.int64)
        lengths[places] = [len(its) for its in utf8]
        found = np.repeat(ids, lengths)
        is_byte = np.repeat(unknown, lengths)
        found[is_byte] = np.frombuffer(b"".join(utf8), np.uint8) + np.uint32(len(self.symbols))
        return found

    def _decode_with_bytes(self, ids: Sequence[int]) -> str:
        n_symbols = len(self.symbols)
        parts = []
        for is_byte, run in groupby(ids, key=lambda i: i >= n_symbols):
            if is_byte:
                parts.append(bytes(i - n_symbols for i in run).decode("utf-8", "replace"))
            else:
                parts += [self.symbols[i] for i in run]
        return "".join(parts)


def _codes(text: str) -> Ids:
    return np.frombuffer(text.encode("utf-32-le"), np.dtype("<u4")).astype(np.uint32, copy=False)
