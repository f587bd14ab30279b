"""The protocol of vocabularies: words, bytes, characters and tokenizers alike.

The ids of a document are those of its whole text: they never depend on how the text was cut into
pieces for streaming (see `trainer.data.text.pieces`).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from trainer.data.text.pieces import Piece
from trainer.errors import InputError

#: The kinds of vocabulary that `txl prepare` makes.
MadeKind = Literal["words", "bytes", "characters", "bpe"]
#: All kinds of vocabulary; a `tokenizer.json` can be of others than those made here, and ids that
#: are ready made come with symbols of any kind.
VocabularyKind = MadeKind | Literal["unigram", "wordpiece", "wordlevel", "symbols"]
Ids = npt.NDArray[np.uint32]

EOS, UNK = "<eos>", "<unk>"


class UnknownSymbolError(InputError):
    """An error: a text holds `symbol`, which the vocabulary lacks. The message has no fix."""

    def __init__(self, message: str, *, symbol: str) -> None:
        super().__init__(message)
        self.symbol = symbol

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how the error is made again in another process."""
        return partial(UnknownSymbolError, symbol=self.symbol), (str(self),)


class Lost(NamedTuple):
    """Numbers of characters of a text that its ids do not hold.

    Attributes:
        hidden: characters behind an unknown token, visible characters in no token, and characters
            that are decoded as others.
        blanks: white space that is decoded differently, or appears where the text has none.
        line_ends: the line ends among `hidden` and `blanks`.
    """

    hidden: int = 0
    blanks: int = 0
    line_ends: int = 0

    def plus(self, other: "Lost") -> "Lost":
        """Return the sum of both."""
        return Lost(*(mine + its for mine, its in zip(self, other, strict=True)))


class Vocabulary(Protocol):
    """Text to ids and back.

    Attributes:
        unk_id: the id of unknown symbols; None where they are an error or cannot occur.
        eos_id: the id of the end of a line (words) or of a document (tokenizers, and listed
            symbols that have one); None for bytes and characters.
    """

    unk_id: int | None
    eos_id: int | None

    @property
    def kind(self) -> VocabularyKind:
        """Return the kind of vocabulary."""
        ...

    @property
    def size(self) -> int:
        """Return the number of ids; all ids are below it."""
        ...

    @property
    def hash(self) -> str:
        """Return the xxh3_128, in hex, of the canonical form of `to_json`."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; nothing is added at its end.

        Raises:
            UnknownSymbolError: a symbol is unknown and there is no `<unk>`.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        ...

    def encode_pieces(self, pieces: Iterable[Piece]) -> Iterator[Ids]:
        """Yield the ids of documents, an array per piece; the ids that end a document come last.

        An array may come after later pieces have been read. For bytes a piece holds one character
        per byte (Latin-1).
        """
        ...

    def lost(self, piece: Piece, ids: Ids, *, starts_document: bool) -> Lost:
        """Count the characters of a text that its ids do not hold.

        Args:
            piece: whole words and white space, see `whole_words`; for bytes one character per byte.
            ids: the ids that `encode_pieces` yielded for the piece; a tokenizer may have put some
                at its ends into neighbouring arrays.
            starts_document: whether the piece begins its document.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """Return JSON values from which the vocabulary can be made again."""
        ...


def canonical_hash(values: Any) -> str:
    """Return the xxh3_128, in hex, of JSON values in their one canonical form."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(canonical.encode())
