"""Vocabularies, the meanings of token ids: words, bytes, characters, subwords."""
