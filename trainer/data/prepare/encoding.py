"""Encoding a stream of pieces into ids and counts, which do not depend on how it was cut."""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import tee

from trainer.data.text.pieces import Piece, count_words, words_of
from trainer.data.text.recutting import whole_words
from trainer.data.vocabulary.files import Ids, Lost, SymbolVocabulary, Vocabulary


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The ids and counts of a piece.

    Attributes:
        n_words: words and line ends; without line ends if no id stands for them.
        n_characters: characters of the text with its line ends; bytes for the bytes tokenizer.
        lost: the characters that the ids do not hold.
    """

    ids: Ids
    n_words: int
    n_characters: int
    lost: Lost
    ends_document: bool


def encode(
    pieces: Iterable[Piece], vocabulary: Vocabulary, *, starts_document: bool = True
) -> Iterator[Encoded]:
    """Encode every piece of documents; some are yielded only after a later one has been read.

    A word or token that spans two pieces is counted with one of them. `starts_document` is whether
    the first piece begins its document.

    Raises:
        InputError: the vocabulary cannot encode the text.
    """
    as_read, for_ids, for_counts = tee(pieces, 3)
    counted = zip(
        as_read, vocabulary.encode_pieces(for_ids), _in_words(for_counts, vocabulary), strict=True
    )
    for piece, ids, words in counted:
        symbols = piece if isinstance(vocabulary, SymbolVocabulary) else words
        lost = vocabulary.lost(symbols, ids, starts_document=starts_document)
        yield Encoded(
            ids=ids,
            n_words=_n_words(words, ids, lost, vocabulary),
            n_characters=_n_characters(piece, ids, vocabulary),
            lost=lost,
            ends_document=piece.ends_document,
        )
        starts_document = piece.ends_document or (starts_document and not words.text)


def _in_words(pieces: Iterable[Piece], vocabulary: Vocabulary) -> Iterator[Piece]:
    return whole_words(_decoded(pieces) if vocabulary.kind == "bytes" else pieces)


def _decoded(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield pieces of text, decoded from pieces that hold a character per byte."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for text, ends_document in pieces:
        yield Piece(decoder.decode(text.encode("latin-1"), final=ends_document), ends_document)


def _n_words(words: Piece, ids: Ids, lost: Lost, vocabulary: Vocabulary) -> int:
    if vocabulary.kind == "words":
        return len(ids)
    if isinstance(vocabulary, SymbolVocabulary) and not vocabulary.line_ends:
        return len(words_of(words.text))
    return count_words(words) - lost.line_ends


def _n_characters(piece: Piece, ids: Ids, vocabulary: Vocabulary) -> int:
    # Published results do not count characters that are no symbol.
    if isinstance(vocabulary, SymbolVocabulary) and not vocabulary.line_ends:
        return len(ids)
    return len(piece.text)
