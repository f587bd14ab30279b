"""Texts as ids, one after another, with the counts that their figures are made of."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from trainer.data.corpus import token_dtype
from trainer.data.guard import StoredIds
from trainer.data.prepare.encoding import Encoded, encode
from trainer.data.text.pieces import Piece
from trainer.data.vocabulary.files import Ids, Lost, UnknownSymbolError, Vocabulary
from trainer.errors import InputError

#: Ids of more bytes than this lie in a temporary file, not in memory.
MOST_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts of a text, as a corpus has them of a split; see `trainer.data.corpus.Split`."""

    n_tokens: int = 0
    n_words: int = 0
    n_characters: int = 0
    n_unknown: int = 0
    """Tokens that stand for what the vocabulary lacks."""
    lost: Lost = field(default_factory=Lost)
    """Characters of the text that its ids do not hold."""

    def plus(self, other: "Counts") -> "Counts":
        """Return the counts of both texts together."""
        return Counts(
            n_tokens=self.n_tokens + other.n_tokens,
            n_words=self.n_words + other.n_words,
            n_characters=self.n_characters + other.n_characters,
            n_unknown=self.n_unknown + other.n_unknown,
            lost=self.lost.plus(other.lost),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedTexts:
    """The ids of texts; a `trainer.data.rows.Text`.

    Attributes:
        tokens: ids of all texts, one text after another.
        document_starts: positions at which a document starts, int64, ascending; the first is 0.
        bounds: position of each text's first token, and the number of all tokens.
        counts: counts of each text.
    """

    tokens: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    document_starts: npt.NDArray[np.int64]
    bounds: tuple[int, ...]
    counts: tuple[Counts, ...]

    def take(self, places: npt.NDArray[np.int64]) -> StoredIds:
        """Return the ids at some places, in their shape."""
        return cast(StoredIds, np.take(self.tokens, places))

    def joined(self) -> "EncodedTexts":
        """Return all texts as one."""
        total = Counts()
        for counts in self.counts:
            total = total.plus(counts)
        return replace(self, bounds=(0, self.bounds[-1]), counts=(total,))


def encoded(texts: Iterable[Iterable[Piece]], vocabulary: Vocabulary) -> EncodedTexts:
    """Encode texts, each the pieces of its documents; memory stays constant.

    Raises:
        InputError: the vocabulary cannot encode a text, a text cannot be read, or the disk for
            temporary files is full.
    """
    counts: list[Counts] = []
    bounds, starts = [0], [0]
    with closing(_Store(token_dtype(vocabulary.size))) as store:
        for pieces in texts:
            of_text = Counts()
            for its in encode(pieces, vocabulary):
                store.add(its.ids)
                of_text = of_text.plus(_counts(its, vocabulary))
                if its.ends_document and store.n_ids > starts[-1]:
                    starts.append(store.n_ids)
            counts.append(of_text)
            bounds.append(store.n_ids)
        return EncodedTexts(
            tokens=store.map(),
            document_starts=np.array(starts[:-1] or [0], np.int64),
            bounds=tuple(bounds),
            counts=tuple(counts),
        )


def _counts(its: Encoded, vocabulary: Vocabulary) -> Counts:
    unknown = vocabulary.unk_id
    return Counts(
        n_tokens=len(its.ids),
        n_words=its.n_words,
        n_characters=its.n_characters,
        n_unknown=0 if unknown is None else int(np.count_nonzero(its.ids == unknown)),
        lost=its.lost,
    )


def encoded_strings(texts: Sequence[str], vocabulary: Vocabulary) -> EncodedTexts:
    """Encode texts, each a document.

    Raises:
        InputError: a text holds half a character, or the vocabulary cannot encode it; the text is
            named by its place in `texts`.
    """
    at = 0

    def pieces() -> Iterator[Iterable[Piece]]:
        nonlocal at
        for at, text in enumerate(texts):  # noqa: B007  # told in the error
            yield _pieces_of(text, vocabulary)

    try:
        return encoded(pieces(), vocabulary)
    except UnknownSymbolError as error:
        raise InputError(f"text {at}: {error}: leave it out, or write it otherwise") from None
    except UnicodeEncodeError as error:
        raise InputError(f"text {at}: half a character at {error.start}: mend the text") from None


def _pieces_of(text: str, vocabulary: Vocabulary) -> list[Piece]:
    symbols = text.encode().decode("latin-1")
    return [Piece(symbols if vocabulary.kind == "bytes" else text, ends_document=True)]


class _Store:
    """Ids that are appended: in memory while they are few, then in a temporary file."""

    def __init__(self, dtype: np.dtype[np.uint16] | np.dtype[np.uint32]) -> None:
        self.n_ids = 0
        self._dtype = dtype
        self._held: list[npt.NDArray[Any]] = []
        self._file: IO[bytes] | None = None

    def add(self, ids: Ids) -> None:
        """Append ids.

        Raises:
            InputError: the temporary file cannot be written.
        """
        self._held.append(ids.astype(self._dtype))
        self.n_ids += len(ids)
        if self._file is None and self.n_ids * self._dtype.itemsize <= MOST_BYTES:
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115  # its map outlives it
            for held in self._held:
                self._file.write(held.tobytes())
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()}: the ids of the text cannot be kept there "
                f"({error.strerror}): set TMPDIR to a folder with room"
            ) from None
        self._held.clear()

    def map(self) -> npt.NDArray[np.uint16] | npt.NDArray[np.uint32]:
        """Return all ids; those in the file are mapped, not read."""
        if self._file is not None:
            return np.memmap(self._file, self._dtype, mode="r")
        return np.concatenate([np.empty(0, self._dtype), *self._held])

    def close(self) -> None:
        """Close the file, which goes when its map does."""
        if self._file is not None:
            self._file.close()
