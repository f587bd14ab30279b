"""A vocabulary of words between white space, as in fairseq and kimiyoung/transformer-xl."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from trainer.data.text.pieces import Piece, words_of
from trainer.data.text.recutting import whole_words
from trainer.data.vocabulary.blanks import n_untold_blanks
from trainer.data.vocabulary.protocol import (
    EOS,
    UNK,
    Ids,
    Lost,
    UnknownSymbolError,
    VocabularyKind,
    canonical_hash,
)
from trainer.outside import printable


class WordVocabulary:
    """Words; a line is its words followed by `<eos>` (id 0), so an empty line is `<eos>` alone.

    A line ends at a line feed, a carriage return, or the two together, as in Python's text files,
    which fairseq and kimiyoung read.
    """

    kind: VocabularyKind = "words"

    def __init__(self, words: Sequence[str], *, lowercase: bool = False) -> None:
        self.words = tuple(words)
        self.lowercase = lowercase
        self._ids = _WordIds((word, i) for i, word in enumerate(words))
        self.unk_id = self._ids.get(UNK)
        self._ids.unk_id = self.unk_id
        self.eos_id = self._ids.get(EOS)
        if self.eos_id is None or len(self._ids) != len(self.words):
            raise ValueError(f"a word occurs twice, or {EOS} is missing")

    @classmethod
    def build(
        cls,
        pieces: Iterable[Piece],
        *,
        min_count: int = 1,
        max_size: int | None = None,
        lowercase: bool = False,
    ) -> "WordVocabulary":
        """Make a vocabulary of `<eos>`, then words by descending count, ties by first appearance.

        See `of_counts`.
        """
        counts = cls.count(pieces, lowercase=lowercase)
        return cls.of_counts(counts, min_count=min_count, max_size=max_size, lowercase=lowercase)

    @classmethod
    def count(cls, pieces: Iterable[Piece], *, lowercase: bool = False) -> Counter[str]:
        """Count the words of documents; they are in the order of their first appearance."""
        counts: Counter[str] = Counter()
        for piece in whole_words(pieces):
            counts.update(words_of(piece.text.lower() if lowercase else piece.text))
        return counts

    @classmethod
    def of_counts(
        cls,
        counts: Counter[str],
        *,
        min_count: int = 1,
        max_size: int | None = None,
        lowercase: bool = False,
    ) -> "WordVocabulary":
        """Make a vocabulary of counts in the order of first appearance.

        An `<unk>` in the text (WikiText) is ranked like any word. Without one, or when `min_count`
        or `max_size` drop it, `<unk>` is added as id 1. `max_size` includes `<eos>` and `<unk>`.
        """
        counts = Counter(counts)
        del counts[EOS]
        words = [word for word, count in counts.most_common() if count >= min_count]
        n_words = None if max_size is None else max_size - 1
        if UNK not in words[:n_words]:
            words.insert(0, UNK)
        return cls([EOS, *words[:n_words]], lowercase=lowercase)

    @property
    def size(self) -> int:  # noqa: D102 - the Protocol says it
        return len(self.words)

    @cached_property
    def hash(self) -> str:  # noqa: D102
        return canonical_hash(self.to_json())

    def to_json(self) -> dict[str, Any]:  # noqa: D102
        return {"kind": self.kind, "lowercase": self.lowercase, "words": list(self.words)}

    def encode(self, text: str) -> list[int]:  # noqa: D102
        ids: list[int] = self._encode(text).tolist()
        return ids

    def encode_pieces(self, pieces: Iterable[Piece]) -> Iterator[Ids]:  # noqa: D102
        return (self._encode(_with_line_end(piece)) for piece in whole_words(pieces))

    def lost(self, piece: Piece, ids: Ids, *, starts_document: bool) -> Lost:  # noqa: D102
        return Lost(
            hidden=self._n_hidden(piece.text, ids),
            blanks=n_untold_blanks(piece.text, starts_document=starts_document),
        )

    def _n_hidden(self, text: str, ids: Ids) -> int:
        """Return the characters that ids do not hold: unknown words, and letters in other case."""
        if self.lowercase and text != text.lower():
            return sum(map(self._n_changed, words_of(text)))
        if self.unk_id is None or self.unk_id not in ids:
            return 0
        return sum(len(word) for word in words_of(text) if word not in self._ids)

    def _n_changed(self, word: str) -> int:
        known = word.lower()
        if known not in self._ids:
            return len(word)
        return sum(one != other for one, other in zip(word, known, strict=False)) or word != known

    def decode(self, ids: Sequence[int]) -> str:  # noqa: D102
        spaced = " ".join("\n" if i == self.eos_id else self.words[i] for i in ids)
        return spaced.replace(" \n", "\n").replace("\n ", "\n")

    def _encode(self, text: str) -> Ids:
        # Splitting many lines at once in C is several times faster than a loop over lines.
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        words = words_of((text.lower() if self.lowercase else text).replace("\n", f" {EOS} "))
        return np.fromiter(map(self._ids.__getitem__, words), np.uint32, len(words))


class _WordIds(dict[str, int]):
    unk_id: int | None = None

    def __missing__(self, word: str) -> int:
        if self.unk_id is None:
            raise UnknownSymbolError(
                f"word {printable(repr(word), most=100)} is not in the vocabulary, which has no "
                f"{UNK}",
                symbol=word,
            )
        return self.unk_id


def _with_line_end(piece: Piece) -> str:
    ends = piece.ends_document and piece.text and not piece.text.endswith(("\n", "\r"))
    return piece.text + "\n" if ends else piece.text
