"""Byte-level BPE through Hugging Face `tokenizers`: trained here, or a loaded `tokenizer.json`."""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from trainer.data.text import Piece
from trainer.data.tokenizer_trial import try_tokenizer
from trainer.data.vocabulary_protocol import Ids, Kind, canonical_hash

DOCUMENT_END = "<|endoftext|>"
# What other tokenizers call the end of a document, the likeliest first.
_DOCUMENT_ENDS = (DOCUMENT_END, "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
MIN_SIZE = 257  # every byte, and the document's end


class BpeVocabulary:
    """Subwords; every document of a corpus ends with `<|endoftext|>`.

    One trained here gives any text back: `decode(encode(text)) == text`. The end of a document
    written out in a text is ordinary text.
    """

    kind: Kind = "bpe"

    def __init__(self, tokenizer: dict[str, Any]) -> None:
        """`tokenizer` is the content of a `tokenizer.json`; raises `ValueError` if it is not."""
        self._json = tokenizer
        try_tokenizer(tokenizer)
        try:
            self._tokenizer = Tokenizer.from_str(json.dumps(tokenizer))
        except Exception as error:  # tokenizers raises Exception itself
            raise ValueError(f"tokenizers cannot read it: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(ids.values()) + 1
        self.eos_id = next((ids[name] for name in _DOCUMENT_ENDS if name in ids), None)
        self.unk_id = ids.get(tokenizer["model"].get("unk_token") or "")

    @classmethod
    def build(cls, pieces: Iterator[Piece], *, size: int) -> "BpeVocabulary":
        """Learn at most `size` entries, `<|endoftext|>` (id 0) and the 256 bytes among them."""
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
        # As read, not as this version of tokenizers would write it: the hash must not move.
        return {"kind": self.kind, "tokenizer": self._json}

    def encode(self, text: str) -> list[int]:  # noqa: D102
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_pieces(self, pieces: Sequence[Piece]) -> list[Ids]:  # noqa: D102
        texts = [piece.text for piece in pieces]
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [
            np.asarray(encoding.ids + self._document_end(piece), np.uint32)
            for encoding, piece in zip(encoded, pieces, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:  # noqa: D102
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def _document_end(self, piece: Piece) -> list[int]:
        ends = piece.ends_document and piece.text and self.eos_id is not None
        return [self.eos_id] if ends and self.eos_id is not None else []
