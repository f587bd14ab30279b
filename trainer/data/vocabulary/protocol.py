"""The protocol of vocabularies: words, bytes, characters and tokenizers alike.

The ids of a document are those of its whole text: how it was cut into pieces for streaming (see
`trainer.data.text.pieces`) never shows in them.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from trainer.data.text.pieces import Piece
from trainer.errors import InputError

#: What `txl prepare` makes a vocabulary of.
MadeKind = Literal["words", "bytes", "characters", "bpe"]
#: The same, and what else a `tokenizer.json` can be.
VocabularyKind = MadeKind | Literal["unigram", "wordpiece", "wordlevel"]
Ids = npt.NDArray[np.uint32]

EOS, UNK = "<eos>", "<unk>"


class UnknownSymbolError(InputError):
    """A text holds `symbol`, which the vocabulary lacks; the message does not say the fix."""

    def __init__(self, message: str, *, symbol: str) -> None:
        super().__init__(message)
        self.symbol = symbol


class Lost(NamedTuple):
    """Characters of a text that its ids do not tell.

    Attributes:
        hidden: characters behind an unknown token, visible ones that are in no token, and those
            that come back as others.
        blanks: white space that does not come back as it was, or comes back where none was.
        line_ends: of both, the line ends.
    """

    hidden: int = 0
    blanks: int = 0
    line_ends: int = 0

    def plus(self, other: "Lost") -> "Lost":
        """The sum of both."""
        return Lost(*(mine + its for mine, its in zip(self, other, strict=True)))


class Vocabulary(Protocol):
    """Text to ids and back.

    Attributes:
        unk_id: what unknown symbols become; None where they are an error or cannot occur.
        eos_id: what ends a line (words) or a document (tokenizers); None for bytes and characters.
    """

    unk_id: int | None
    eos_id: int | None

    @property
    def kind(self) -> VocabularyKind:
        """Which tokenizer this is."""
        ...

    @property
    def size(self) -> int:
        """Number of ids; all are below it."""
        ...

    @property
    def hash(self) -> str:
        """xxh3_128, in hex, of the canonical form of `to_json`."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as it stands: nothing is added at its end.

        Raises:
            UnknownSymbolError: a symbol is unknown and there is no `<unk>`.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        ...

    def encode_pieces(self, pieces: Iterable[Piece]) -> Iterator[Ids]:
        """Ids of documents with what ends each, in as many arrays as there are pieces.

        An array may come later than its piece; one that holds a document's last piece holds its
        end. For bytes a piece holds one character per byte (Latin-1).
        """
        ...

    def lost(self, piece: Piece, ids: Ids, *, starts_document: bool) -> Lost:
        """Count the characters that a text's ids do not tell.

        Args:
            piece: no word and no white space of it may go beyond it, see `whole_words`; for bytes
                it is as for `encode_pieces`.
            ids: what `encode_pieces` made of it; a tokenizer may have taken some from its ends.
            starts_document: whether nothing of the document is before it.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """All that makes this vocabulary, as JSON values."""
        ...


def canonical_hash(values: Any) -> str:
    """xxh3_128, in hex, of JSON values in their one canonical form."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(canonical.encode())
