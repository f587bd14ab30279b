"""What every vocabulary offers: words, bytes, characters and BPE alike.

Every vocabulary encodes a text as the concatenation of its pieces (see `trainer.data.text`), so
how a text was cut for streaming never shows in the ids.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from trainer.data.text import Piece

Kind = Literal["words", "bytes", "characters", "bpe"]
Ids = npt.NDArray[np.uint32]

EOS, UNK = "<eos>", "<unk>"


class Vocabulary(Protocol):
    """Text to ids and back.

    Attributes:
        unk_id: what unknown symbols become; None where they are an error or cannot occur.
        eos_id: what ends a line (words) or a document (BPE); None for bytes and characters.
    """

    unk_id: int | None
    eos_id: int | None

    @property
    def kind(self) -> Kind:
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
            InputError: a symbol is unknown and there is no `<unk>`.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        ...

    def encode_pieces(self, pieces: Sequence[Piece]) -> list[Ids]:
        """Ids of each piece of the documents of a corpus, with what ends a document.

        For bytes a piece holds one character per byte (Latin-1).
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """All that makes this vocabulary, as JSON values."""
        ...


def canonical_hash(values: Any) -> str:
    """xxh3_128, in hex, of JSON values in their one canonical form."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(canonical.encode())
