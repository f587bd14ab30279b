"""Bytes by enwik8's rule, and characters by text8's."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from trainer.data.text import Piece
from trainer.data.vocabulary_protocol import UNK, Ids, Kind, canonical_hash
from trainer.errors import InputError


class SymbolVocabulary:
    """The bytes or characters of train, by count, and no `<eos>`.

    A byte is held as the character of the same number, so both kinds share all code. Without
    `line_ends` a line end is no symbol: it vanishes from every text, as in published results on
    enwik8.
    """

    eos_id: int | None = None

    def __init__(
        self, kind: Kind, symbols: str, *, unk: bool = False, line_ends: bool = True
    ) -> None:
        self.kind = kind
        self.line_ends = line_ends
        self.symbols = symbols
        self.unk_id = len(symbols) if unk else None
        self.size = len(symbols) + unk
        codes = _codes(symbols)
        self._table = np.full(int(codes.max(initial=0)) + 2, self.size, np.uint32)
        self._table[codes] = np.arange(len(symbols), dtype=np.uint32)
        if unk:
            self._table[self._table == self.size] = len(symbols)

    @classmethod
    def build(
        cls, kind: Kind, pieces: Iterable[Piece], *, unk: bool = False, line_ends: bool = True
    ) -> "SymbolVocabulary":
        """Symbols by descending count, ties by first appearance, then `<unk>` if asked for."""
        counts = np.zeros(0, np.int64)
        appeared: list[int] = []
        for piece in pieces:
            found = np.bincount(_codes(piece.text))
            if len(found) > len(counts):
                counts = np.pad(counts, (0, len(found) - len(counts)))
            if new := {*np.flatnonzero((found > 0) & (counts[: len(found)] == 0)).tolist()}:
                appeared += [code for code in map(ord, dict.fromkeys(piece.text)) if code in new]
            counts[: len(found)] += found
        ranked = sorted(appeared, key=lambda code: -int(counts[code]))
        symbols = "".join(map(chr, ranked))
        return cls(
            kind, symbols if line_ends else symbols.replace("\n", ""), unk=unk, line_ends=line_ends
        )

    @cached_property
    def hash(self) -> str:  # noqa: D102
        return canonical_hash(self.to_json())

    def to_json(self) -> dict[str, Any]:  # noqa: D102
        values = {"kind": self.kind, "symbols": self.symbols, "unk": self.unk_id is not None}
        return values if self.line_ends else values | {"line_ends": False}

    def encode(self, text: str) -> list[int]:  # noqa: D102
        symbols = text.encode().decode("latin-1") if self._is_bytes else text
        ids: list[int] = self._encode(symbols).tolist()
        return ids

    def encode_pieces(self, pieces: Sequence[Piece]) -> list[Ids]:  # noqa: D102
        return [self._encode(piece.text) for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:  # noqa: D102
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
            code = int(codes[ids >= self.size][0])
            symbol = f"byte 0x{code:02x}" if self._is_bytes else f"character {chr(code)!r}"
            raise InputError(
                f"{symbol} is not in the vocabulary, which has no {UNK}: "
                "prepare the corpus with --unk"
            )
        return ids


def _codes(text: str) -> Ids:
    return np.frombuffer(text.encode("utf-32-le"), np.dtype("<u4")).astype(np.uint32, copy=False)
