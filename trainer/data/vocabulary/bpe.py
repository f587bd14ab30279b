"""Subwords through Hugging Face `tokenizers`: BPE trained here, or any `tokenizer.json`."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar, cast

from tokenizers import Encoding, Tokenizer, decoders, models, pre_tokenizers, trainers

from trainer.data.text.pieces import Piece, ends_inside_line
from trainer.data.vocabulary.losses import LossCounter, is_lossless
from trainer.data.vocabulary.protocol import Ids, Lost, VocabularyKind, canonical_hash
from trainer.data.vocabulary.stitching import stitched
from trainer.data.vocabulary.trial import try_tokenizer
from trainer.errors import InputError
from trainer.outside import printable

DOCUMENT_END = "<|endoftext|>"
# Names of the end of a document in other tokenizers, the likeliest first.
_DOCUMENT_ENDS = (DOCUMENT_END, "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
MIN_SIZE = 257  # every byte, and the document's end
_KINDS: dict[str, VocabularyKind] = {
    "BPE": "bpe",
    "Unigram": "unigram",
    "WordPiece": "wordpiece",
    "WordLevel": "wordlevel",
}
# So many tokens are tried as the neighbour of a text that is read back.
_MOST_NEIGHBOURS = 4096
_Result = TypeVar("_Result")


class TokenizerVocabulary:
    """Subwords; every document of a corpus ends with `<|endoftext|>` or the tokenizer's own end.

    A tokenizer trained here loses nothing: `decode(encode(text)) == text`. The losses of other
    tokenizers are counted. If a text spells out the end of a document, that is ordinary text.
    """

    def __init__(self, tokenizer: dict[str, Any]) -> None:
        """Use the content of a `tokenizer.json`; raise `ValueError` if it is none.

        Rules that add to a text, cut it or draw at random are left out: templates, padding,
        truncation, dropout.
        """
        self._json = tokenizer
        try_tokenizer(tokenizer)
        model = tokenizer["model"] | {"dropout": None} if "dropout" in tokenizer["model"] else None
        used = tokenizer | {"post_processor": None, "truncation": None, "padding": None}
        used |= {"model": model} if model else {}
        self.rules: dict[str, Any] = used
        """The content of a `tokenizer.json` that encodes as this vocabulary does."""
        self._tokenizer = _answer(lambda: Tokenizer.from_str(json.dumps(used)))
        self._tokenizer.encode_special_tokens = True
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        self.kind = _KINDS[type(self._tokenizer.model).__name__]
        self.size = max(ids.values()) + 1
        self.eos_id = next((ids[name] for name in _DOCUMENT_ENDS if name in ids), None)
        self.unk_id = _unknown_id(self._tokenizer, tokenizer["model"], ids)

    @classmethod
    def build(cls, pieces: Iterator[Piece], *, size: int) -> "TokenizerVocabulary":
        """Learn BPE of at most `size` entries, `<|endoftext|>` (id 0) and all bytes among them."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[DOCUMENT_END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator((piece.text for piece in pieces), trainer)
        return cls(json.loads(tokenizer.to_str()))

    @cached_property
    def hash(self) -> str:  # noqa: D102 - the Protocol says it
        return canonical_hash(self.to_json())

    def to_json(self) -> dict[str, Any]:  # noqa: D102
        # The hash must not change: so the content stays as it was read, whatever this version of
        # tokenizers would write, and every kind is called "bpe", as in earlier versions.
        return {"kind": "bpe", "tokenizer": self._json}

    def encode(self, text: str) -> list[int]:  # noqa: D102
        return self._encode([text], offsets=False)[0].ids

    def encode_pieces(self, pieces: Iterable[Piece]) -> Iterator[Ids]:  # noqa: D102
        return stitched(pieces, self._encode, end_id=self.eos_id)

    def decode(self, ids: Sequence[int]) -> str:  # noqa: D102
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    @cached_property
    def is_lossless(self) -> bool:
        """Return whether every probe of characters and white space is decoded unchanged."""
        return is_lossless(self._read_back)

    def lost(self, piece: Piece, ids: Ids, *, starts_document: bool) -> Lost:  # noqa: D102
        if self.is_lossless:
            return Lost()
        lost = self._losses.lost(piece, starts_document=starts_document)
        is_untold_end = ends_inside_line(piece) and not self._keeps_line_ends
        return lost.plus(Lost(line_ends=int(is_untold_end)))

    @cached_property
    def _losses(self) -> LossCounter:
        commonest = range(min(self.size, _MOST_NEIGHBOURS))
        return LossCounter(self._read_back, tokens=(self.decode([i]) for i in commonest))

    @cached_property
    def _keeps_line_ends(self) -> bool:
        return self._losses.keeps("\n")

    def _encode(self, texts: Sequence[str], offsets: bool) -> list[Encoding]:
        how = self._tokenizer.encode_batch if offsets else self._tokenizer.encode_batch_fast
        try:
            return _answer(lambda: how(texts, add_special_tokens=False))
        except ValueError as error:
            raise InputError(
                f"the tokenizer cannot encode the text ({error}): take one that has a token for "
                "what is unknown"
            ) from None

    def _read_back(self, texts: Sequence[str]) -> list[tuple[str, list[bool]]]:
        try:
            encodings = self._encode(texts, offsets=True)
        except InputError:
            if len(texts) == 1:  # no token for the word, not even an unknown one
                return [("", [False] * len(texts[0]))]
            return [self._read_back([text])[0] for text in texts]
        ids = [encoding.ids for encoding in encodings]
        backs = self._tokenizer.decode_batch(ids, skip_special_tokens=False)
        has = map(self._has, encodings, texts)
        return list(zip(backs, has, strict=True))

    def _has(self, encoding: Encoding, text: str) -> list[bool]:
        has = [self.unk_id is None] * len(text)
        for token, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token != self.unk_id:
                has[begin:end] = [True] * (end - begin)
        return has


def _unknown_id(tokenizer: Tokenizer, model: dict[str, Any], ids: dict[str, int]) -> int | None:
    """Return the id for unknown text; Unigram states the id, other models the token's text."""
    if isinstance(tokenizer.model, models.Unigram):
        return cast("int | None", model.get("unk_id"))
    return ids.get(tokenizer.model.unk_token or "")


def _answer(ask: Callable[[], _Result]) -> _Result:
    """Return the library's answer; turn any of its errors, even a panic, into a `ValueError`."""
    try:
        return ask()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as raised:  # the library's panics are no `Exception`
        told = printable(" ".join(str(raised).split()), most=300)
        raise ValueError(f"tokenizers cannot read it: {told}") from None
